-- A step of deleting orders of which nothing is left to deliver: of the next rows ($2 at most) behind a key ($1, as the step before said
-- it) those that did not change for so many seconds ($3). Rows that another session locks are left for the next time.
WITH step AS MATERIALIZED (
    SELECT t.external_order_id, t.provider, t.id, t.first_at,
        t.undelivered_since IS NULL AND t.last_at < now() - make_interval(secs => $3::double precision) AS goes
    FROM hub.orders t
    WHERE (t.external_order_id, t.provider, t.id) > (
        coalesce(nullif($1::text, '')::jsonb->>0, ''), coalesce(nullif($1::text, '')::jsonb->>1, ''),
        coalesce(nullif($1::text, '')::jsonb->>2, '00000000-0000-0000-0000-000000000000')::uuid
    )
    ORDER BY t.external_order_id, t.provider, t.id
    LIMIT $2
), free AS (
    SELECT t.external_order_id, t.provider, t.id
    FROM step s JOIN hub.orders t USING (external_order_id, provider, id) WHERE s.goes FOR UPDATE OF t SKIP LOCKED
), gone AS (
    DELETE FROM hub.orders t USING free f
    WHERE (t.external_order_id, t.provider, t.id) = (f.external_order_id, f.provider, f.id) RETURNING t.id
)
SELECT (
        SELECT jsonb_build_array(external_order_id, provider, id)::text FROM step
        ORDER BY external_order_id DESC, provider DESC, id DESC LIMIT 1
    ), count(*), (SELECT count(*) FROM gone),
    extract(epoch FROM now() - min(first_at) FILTER (WHERE NOT goes))::double precision
FROM step
