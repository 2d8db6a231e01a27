-- Moves a projection ($1) to a sequence ($2), in the transaction that wrote the rows; its writer stays it for so many
-- seconds ($3).
UPDATE hub.cursors SET position = $2, moved_at = now(), held_until = clock_timestamp() + make_interval(secs => $3::double precision)
WHERE name = $1
