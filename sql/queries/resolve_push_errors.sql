-- Errors of requests of the backend ($1, at $2), which have no webhook, that are overcome ($3 says how).
UPDATE {platform}.delivery_error_logs e SET
    is_resolved = true, resolved_at = r.resolved_at, resolved_by = 'webhook-hub', resolution_notes = r.notes,
    updated_at = r.resolved_at
FROM unnest($1::text[], $2::timestamp[], $3::text[]) AS r (root_id, resolved_at, notes)
WHERE e.webhook_log_id IS NULL AND e.context->>'rootId' = r.root_id AND NOT e.is_resolved
