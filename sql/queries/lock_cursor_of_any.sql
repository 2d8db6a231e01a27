-- How far the tables ($1: their cursor) are, and on which log; locked until the transaction ends, with any instance as their writer.
SELECT position, log, (extract(epoch FROM moved_at) * 1000000)::bigint * 1000 FROM hub.cursors WHERE name = $1 FOR UPDATE
