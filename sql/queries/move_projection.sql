-- Moves a projection of the hub's own ($1) that is behind the tables to a sequence ($2).
UPDATE hub.projections SET position = $2 WHERE name = $1
