-- The last sequence that a projection ($1) has applied, where this ($2) is its writer; locked until the transaction ends.
SELECT position FROM hub.cursors WHERE name = $1 AND holder = $2 FOR UPDATE
