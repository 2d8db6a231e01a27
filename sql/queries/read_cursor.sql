-- How far a projection ($1) is, and whether somebody holds it.
SELECT position, coalesce(held_until > clock_timestamp(), false) AS is_held FROM hub.cursors WHERE name = $1
