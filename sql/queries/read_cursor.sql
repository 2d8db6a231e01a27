-- How far a projection ($1) is, and whether another holder than $2 has it. An instance that lost its connection does not wait
-- for its own lease to run out.
SELECT position, coalesce(held_until > clock_timestamp() AND holder <> $2, false) AS is_held
FROM hub.cursors WHERE name = $1
