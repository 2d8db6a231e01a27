-- Errors of requests of the backend ($1, at $2), which have no webhook, that reached the provider after all.
UPDATE delivery_error_logs e SET
    is_resolved = true, resolved_at = r.resolved_at, resolved_by = 'webhook-hub', resolution_notes = 'the provider has it by a later attempt',
    updated_at = r.resolved_at
FROM unnest($1::text[], $2::timestamp[]) AS r (root_id, resolved_at)
WHERE e.webhook_log_id IS NULL AND e.context->>'rootId' = r.root_id AND NOT e.is_resolved
