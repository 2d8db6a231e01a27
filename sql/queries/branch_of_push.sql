-- What a provider is told about a branch ($2) of its ($1), also where the row is not active any more: an order that is in the
-- kitchen can still be accepted or cancelled. Of several rows the active one, else the last in the order in which the branches are read.
SELECT nullif(b.merchant_id, ''), nullif(b.store_id, ''), b.settings::text AS settings, nullif(p.api_base_url, '') AS api_base_url,
    b.is_active AND p.is_active AS is_active
FROM {platform}.branch_delivery_configs b
JOIN {platform}.delivery_providers p ON p.id = b.provider_id
WHERE p.code = $1 AND b.branch_id = $2
ORDER BY b.is_active DESC, b.id
LIMIT 1
