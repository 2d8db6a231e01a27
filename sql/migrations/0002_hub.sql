-- The hub's own bookkeeping.
CREATE TABLE hub.cursors (
    name text PRIMARY KEY,
    position bigint NOT NULL,
    moved_at timestamptz NOT NULL
);
