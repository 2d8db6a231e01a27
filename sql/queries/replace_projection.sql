-- A projection of the hub's own ($1) has other rows, which this version ($2) made in this era ($3) up to a sequence ($4).
UPDATE hub.projections SET version = $2, era = $3, position = $4 WHERE name = $1
