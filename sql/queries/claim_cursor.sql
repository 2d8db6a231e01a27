-- Makes an instance ($2) the writer of a projection ($1) for so many seconds ($3), or lets it stay the writer; no row where another
-- one is. The server's clock alone counts. Where the writer is inside a transaction this waits for its end.
INSERT INTO hub.cursors AS c (name, position, moved_at, holder, held_until)
VALUES ($1, 0, now(), $2, clock_timestamp() + make_interval(secs => $3::double precision))
ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, held_until = excluded.held_until
WHERE c.holder = excluded.holder OR c.held_until IS NULL OR c.held_until < clock_timestamp()
RETURNING position, log, (extract(epoch FROM moved_at) * 1000000)::bigint * 1000
