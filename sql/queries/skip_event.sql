-- Notes an event ($1 = its sequence, $2 = its type) that has no rows, and why ($3).
INSERT INTO hub.skipped_events (sequence, event_type, reason) VALUES ($1, $2, $3)
ON CONFLICT (sequence) DO UPDATE SET reason = excluded.reason
