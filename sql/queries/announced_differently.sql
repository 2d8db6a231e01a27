-- Orders that were announced again in another way, as of the last $1 seconds; the backend has the first announcement. An order is announced
-- again within 48 hours, so the index on first_at finds them.
SELECT count(*) AS count FROM hub.orders
WHERE first_at > now() - interval '48 hours' - make_interval(secs => $1::double precision)
  AND last_at > now() - make_interval(secs => $1::double precision)
  AND 'announced_differently' = ANY(flags)
