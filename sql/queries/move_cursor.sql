-- Moves a projection ($1) to a sequence ($2), in the transaction that wrote the rows.
INSERT INTO hub.cursors (name, position, moved_at) VALUES ($1, $2, now())
ON CONFLICT (name) DO UPDATE SET position = excluded.position, moved_at = excluded.moved_at
