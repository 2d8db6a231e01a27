-- The last sequence that a projection ($1) has applied, as of its last transaction.
SELECT position FROM hub.cursors WHERE name = $1
