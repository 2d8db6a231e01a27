-- What became of webhooks, as the projection worked it out. NULL leaves a column as it is, but for those that belong to one
-- state only.
UPDATE {platform}.webhook_logs w SET
    status = coalesce(u.status::{types}."WebhookStatus", w.status),
    branch_id = coalesce(u.branch_id, w.branch_id),
    company_id = coalesce(u.company_id, w.company_id),
    internal_order_id = coalesce(u.internal_order_id, w.internal_order_id),
    processed_at = coalesce(u.processed_at, w.processed_at),
    retry_count = coalesce(u.retry_count, w.retry_count),
    next_retry_at = u.next_retry_at,
    response = coalesce(u.response::jsonb, w.response),
    error_message = u.error_message,
    updated_at = u.updated_at
FROM unnest(
    $1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::timestamp[], $7::integer[], $8::timestamp[], $9::text[],
    $10::text[], $11::timestamp[]
) AS u (
    id, status, branch_id, company_id, internal_order_id, processed_at, retry_count, next_retry_at, response, error_message,
    updated_at
)
WHERE w.id = u.id
