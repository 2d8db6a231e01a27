-- Who writes the tables, until when others leave that to it, and which events have no rows yet: those that no version that
-- ran could read, and those that PostgreSQL or the code could not take. A later version tries them again.
ALTER TABLE hub.cursors ADD COLUMN holder text, ADD COLUMN held_until timestamptz;
CREATE TABLE hub.skipped_events (
    sequence bigint PRIMARY KEY,
    event_type text,
    reason text NOT NULL,
    noted_at timestamptz NOT NULL DEFAULT now()
);
