-- The projections of the hub's own go back to the common point ($1) of an era ($2) that begins.
UPDATE hub.projections SET position = least(position, $1), era = $2
