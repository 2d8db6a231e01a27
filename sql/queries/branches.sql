-- Branches of every provider, the active ones first; $1 = most rows. Oldest first, so that of two rows for one merchant the answer is
-- stable. The provider is looked up for each row: joined in the other order, each provider reads all rows (OFFSET 0 keeps the order).
SELECT p.code, b.branch_id, b.company_id, nullif(b.merchant_id, ''), nullif(b.store_id, ''),
    nullif(b.webhook_secret, '') AS webhook_secret, b.auto_accept_orders, b.settings::text AS settings,
    nullif(p.api_base_url, '') AS api_base_url, b.is_active AND p.is_active AS is_active
FROM {platform}.branch_delivery_configs b
CROSS JOIN LATERAL (
    SELECT code, api_base_url, is_active FROM {platform}.delivery_providers WHERE id = b.provider_id OFFSET 0
) p
ORDER BY b.is_active AND p.is_active DESC, b.id
LIMIT $1
