-- How far a projection ($1) is, and whether somebody other than $2 holds it. An instance that lost its connection does not wait
-- for its own lease to run out.
SELECT position, coalesce(held_until > clock_timestamp() AND holder <> $2, false) AS is_held
FROM hub.cursors WHERE name = $1
