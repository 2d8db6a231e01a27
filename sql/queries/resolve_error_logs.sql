-- Errors of webhooks ($1, at $2) that are overcome ($3 says how).
UPDATE {platform}.delivery_error_logs e SET
    is_resolved = true, resolved_at = r.resolved_at, resolved_by = 'webhook-hub', resolution_notes = r.notes,
    updated_at = r.resolved_at
FROM unnest($1::text[], $2::timestamp[], $3::text[]) AS r (root_id, resolved_at, notes)
WHERE e.webhook_log_id = r.root_id AND NOT e.is_resolved
