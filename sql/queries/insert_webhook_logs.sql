-- New webhooks, with what is known of their fate already.
INSERT INTO {platform}.webhook_logs (
    id, provider_id, webhook_type, external_order_id, endpoint, method, headers, payload, signature, ip_address,
    received_at, created_at, max_retries,
    status, branch_id, company_id, internal_order_id, processed_at, retry_count, next_retry_at, response, error_message, updated_at
)
SELECT id, provider_id, webhook_type, external_order_id, endpoint, method, headers::jsonb, payload::jsonb, signature, ip_address,
    received_at, received_at, 10,
    status::{types}."WebhookStatus", branch_id, company_id, internal_order_id, processed_at, coalesce(retry_count, 0), next_retry_at,
    response::jsonb, error_message, updated_at
FROM unnest(
    $1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $10::text[],
    $11::timestamp[], $12::text[], $13::text[], $14::text[], $15::text[], $16::timestamp[], $17::integer[], $18::timestamp[],
    $19::text[], $20::text[], $21::timestamp[]
) AS new (
    id, provider_id, webhook_type, external_order_id, endpoint, method, headers, payload, signature, ip_address,
    received_at, status, branch_id, company_id, internal_order_id, processed_at, retry_count, next_retry_at,
    response, error_message, updated_at
)
ON CONFLICT (id) DO NOTHING
