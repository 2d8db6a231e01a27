-- The branch of the sample order.
INSERT INTO {platform}.delivery_providers (id, code, name) VALUES ('dev-provider-careem', 'careem', 'Careem') ON CONFLICT DO NOTHING;
INSERT INTO {platform}.branch_delivery_configs (id, branch_id, provider_id, company_id, merchant_id)
SELECT 'dev-branch-config', 'dev-branch', id, 'dev-company', 'dev-merchant' FROM {platform}.delivery_providers WHERE code = 'careem'
ON CONFLICT DO NOTHING;
