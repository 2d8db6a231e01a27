-- The last two branches that have an order ($2) of a provider ($1), as it was forwarded, and their companies: first the one with the
-- order that the backend knows by this id ($3), where that is known, then the latest. Two rows say that several branches have the number:
-- the table does not say with which secret an order was announced, so neither row is to be preferred for being the latest.
SELECT o.branch_id, (array_agg(o.company_id ORDER BY o.created_at DESC))[1] AS company_id,
    coalesce(bool_or(o.order_id = $3::text), false) AS is_meant, max(o.created_at) AS created_at
FROM {platform}.provider_order_logs o
JOIN {platform}.delivery_providers p ON p.id = o.provider_id
WHERE p.code = $1 AND o.external_order_id = $2
GROUP BY o.branch_id
ORDER BY is_meant DESC, max(o.created_at) DESC
LIMIT 2
