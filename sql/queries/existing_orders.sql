-- Of these webhooks (their event ids, the provider's order ids, the branches) those whose order exists already and was
-- not made by that very webhook: a redelivered event must not take its own order for somebody else's.
SELECT q.root_id, min(o.id)
FROM unnest($1::text[], $2::text[], $3::text[]) AS q(root_id, external_order_id, branch_id)
JOIN orders o ON o.provider_order_id = q.external_order_id AND o.branch_id = q.branch_id
WHERE NOT EXISTS (SELECT 1 FROM webhook_logs w WHERE w.id = q.root_id AND w.internal_order_id = o.id)
GROUP BY q.root_id
