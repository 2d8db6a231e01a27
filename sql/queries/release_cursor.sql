-- The writer ($2) of a projection ($1) lets another one take it.
UPDATE hub.cursors SET held_until = NULL WHERE name = $1 AND holder = $2
