-- The same ($1), locked until the transaction ends, whoever writes the tables.
SELECT position, log, (extract(epoch FROM moved_at) * 1000000)::bigint * 1000 FROM hub.cursors WHERE name = $1 FOR UPDATE
