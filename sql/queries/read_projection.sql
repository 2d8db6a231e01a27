-- Which version of a projection of the hub's own ($1) made its rows, up to where, and in which era.
SELECT version, position, era FROM hub.projections WHERE name = $1
