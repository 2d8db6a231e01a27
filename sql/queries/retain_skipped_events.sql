-- Deletes notes of events that have no rows and are not on the log any more (it begins at $1), so that no version can apply them;
-- those that were noted more than $2 seconds ago.
WITH gone AS (
    DELETE FROM hub.skipped_events
    WHERE sequence < $1 AND noted_at < now() - make_interval(secs => $2::double precision)
    RETURNING sequence
)
SELECT (SELECT count(*) FROM gone),
    (SELECT extract(epoch FROM now() - min(s.noted_at))::double precision FROM hub.skipped_events s
     WHERE NOT (s.sequence < $1 AND s.noted_at < now() - make_interval(secs => $2::double precision)))
