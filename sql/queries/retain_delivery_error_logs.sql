-- A step of deleting errors that are resolved: of the next rows ($2 at most) behind an id ($1) those that did not change for so
-- many seconds ($3). Rows that another session locks are left for the next time.
WITH step AS MATERIALIZED (
    SELECT t.id, t.created_at,
        t.updated_at < (now() AT TIME ZONE 'UTC') - make_interval(secs => $3::double precision)
        AND t.is_resolved AS goes
    FROM {platform}.delivery_error_logs t
    WHERE t.id > $1
    ORDER BY t.id
    LIMIT $2
), free AS (
    SELECT t.id FROM step s JOIN {platform}.delivery_error_logs t ON t.id = s.id WHERE s.goes FOR UPDATE OF t SKIP LOCKED
), gone AS (
    DELETE FROM {platform}.delivery_error_logs t USING free f WHERE t.id = f.id RETURNING t.id
)
SELECT max(id), count(*), (SELECT count(*) FROM gone),
    extract(epoch FROM (now() AT TIME ZONE 'UTC') - min(created_at) FILTER (WHERE NOT goes))::double precision
FROM step
