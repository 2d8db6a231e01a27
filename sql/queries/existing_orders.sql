-- Of these webhooks (their event ids, when they were received, the provider's order ids where they announce new orders,
-- the branches) those that are nothing new, with the order that they belong to: because that order exists already and was
-- not made by that very webhook (a redelivered event must not take its own order for somebody else's), or because the
-- webhook itself was received before and the backend has it.
WITH q AS (
    SELECT * FROM unnest($1::text[], $2::timestamp[], $3::text[], $4::text[]) AS q(root_id, received_at, external_order_id, branch_id)
), known AS (
    SELECT q.root_id, o.id AS order_id, false AS is_repeat
    FROM q JOIN orders o ON o.provider_order_id = q.external_order_id AND o.branch_id = q.branch_id
    WHERE NOT EXISTS (SELECT 1 FROM webhook_logs w WHERE w.id = q.root_id AND w.internal_order_id = o.id)
    UNION ALL
    SELECT q.root_id, w.internal_order_id, true
    FROM q JOIN webhook_logs w ON w.id = q.root_id
    WHERE w.status = 'completed' AND w.received_at < q.received_at
)
SELECT root_id, min(order_id), bool_or(is_repeat) FROM known GROUP BY root_id
