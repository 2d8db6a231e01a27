-- Errors, one an event. Where the log went back or is another, an error of another time may have its id; then it gets the other one
-- ($16). The webhook is named only where it has a row: an unreadable one has none.
INSERT INTO {platform}.delivery_error_logs (
    id, provider_id, branch_id, webhook_log_id, error_type, error_code, error_message, error_details, context,
    retry_count, next_retry_at, moved_to_dead_letter_at, occurred_at, created_at,
    is_resolved, resolved_at, resolved_by, resolution_notes, updated_at
)
SELECT CASE WHEN EXISTS (
        SELECT FROM {platform}.delivery_error_logs known WHERE known.id = e.id AND known.occurred_at <> e.occurred_at::timestamp(3)
    ) AND EXISTS (
        SELECT FROM hub.log_eras
    ) THEN e.other_id ELSE e.id END, e.provider_id, e.branch_id, e.webhook_log_id, e.error_type, e.error_code, e.error_message, e.error_details::jsonb,
    e.context::jsonb, e.retry_count, e.next_retry_at, e.moved_to_dead_letter_at, e.occurred_at, e.occurred_at,
    e.resolved_at IS NOT NULL, e.resolved_at, CASE WHEN e.resolved_at IS NOT NULL THEN 'webhook-hub' END, e.resolution_notes,
    coalesce(e.resolved_at, e.occurred_at)
FROM unnest(
    $1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[],
    $10::integer[], $11::timestamp[], $12::timestamp[], $13::timestamp[], $14::timestamp[], $15::text[], $16::text[]
) AS e (
    id, provider_id, branch_id, webhook_log_id, error_type, error_code, error_message, error_details, context,
    retry_count, next_retry_at, moved_to_dead_letter_at, occurred_at, resolved_at, resolution_notes, other_id
)
ON CONFLICT (id) DO NOTHING
