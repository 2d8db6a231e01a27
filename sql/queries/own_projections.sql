-- The projections of the hub's own: which version made their rows, and up to where. Asked after the tables' position is locked, by a
-- statement of its own: one that waited for the lock would see them as they were before.
SELECT name, version, position FROM hub.projections
