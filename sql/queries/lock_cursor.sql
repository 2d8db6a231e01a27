-- The last sequence that a projection ($1) has applied; locked until the transaction ends.
SELECT position FROM hub.cursors WHERE name = $1 FOR UPDATE
