-- A projection of the hub's own ($1) is made by this version ($2) from now on, in this era ($3): from the log's beginning.
INSERT INTO hub.projections (name, version, position, era) VALUES ($1, $2, 0, $3)
ON CONFLICT (name) DO UPDATE SET version = excluded.version, position = 0, era = excluded.era
