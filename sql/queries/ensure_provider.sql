-- A row for an enabled provider ($1 = id, $2 = code, $3 = name) where there is none; an existing one is never touched.
INSERT INTO {platform}.delivery_providers (id, code, name, is_active, rate_limit_per_minute, created_at, updated_at)
SELECT $1::text, $2::text, $3::text, true, 100, now() AT TIME ZONE 'UTC', now() AT TIME ZONE 'UTC'
WHERE NOT EXISTS (SELECT 1 FROM {platform}.delivery_providers WHERE code = $2::text)
ON CONFLICT DO NOTHING
