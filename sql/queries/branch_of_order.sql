-- The branch and company of an order ($2) of a provider ($1), as it was forwarded.
SELECT o.branch_id, o.company_id
FROM {platform}.provider_order_logs o
JOIN {platform}.delivery_providers p ON p.id = o.provider_id
WHERE p.code = $1 AND o.external_order_id = $2
ORDER BY o.created_at DESC
LIMIT 1
