-- Moves the tables ($1) to a sequence ($2), in the transaction that wrote the rows; their writer stays it for so many seconds ($3).
-- $4: which log that is; NULL where no more is known of it than before. With them the projections of the hub's own that are as far ($5).
WITH own AS (
    UPDATE hub.projections SET position = greatest(position, $2) WHERE name = ANY ($5::text[])
)
UPDATE hub.cursors SET position = $2, moved_at = now(), held_until = clock_timestamp() + make_interval(secs => $3::double precision),
    log = coalesce($4, log)
WHERE name = $1
