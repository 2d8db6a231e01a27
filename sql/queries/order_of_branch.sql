-- Whether a branch ($3) has an order ($2) of a provider ($1), or only another one does; no row where no branch has it.
SELECT o.branch_id = $3 AS is_own, o.branch_id, o.company_id
FROM {platform}.provider_order_logs o
JOIN {platform}.delivery_providers p ON p.id = o.provider_id
WHERE p.code = $1 AND o.external_order_id = $2
ORDER BY o.branch_id = $3 DESC, o.created_at DESC
LIMIT 1
