-- Which event log the tables are made of. A log that went back, or is another one, begins a new era beside the rows of before.
ALTER TABLE hub.cursors ADD COLUMN log text;
CREATE TABLE hub.log_eras (
    era integer PRIMARY KEY,
    began_at timestamptz NOT NULL DEFAULT now(),
    found text NOT NULL,
    -- When the log was created that the era is about.
    log_created timestamptz NOT NULL,
    -- How far the tables were, and up to where both logs are the same; 0 where no common point is known.
    position_before bigint NOT NULL,
    common_point bigint NOT NULL
);
-- Events that the log had forgotten before the tables came to them: they have no rows.
CREATE TABLE hub.log_gaps (
    era integer NOT NULL,
    first_sequence bigint NOT NULL,
    last_sequence bigint NOT NULL,
    noted_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (era, first_sequence)
);
-- hub.skipped_events of a log that is not there any more: other events stand at their sequences.
CREATE TABLE hub.lost_skipped_events (
    era integer NOT NULL,
    sequence bigint NOT NULL,
    event_type text,
    reason text NOT NULL,
    noted_at timestamptz NOT NULL,
    PRIMARY KEY (era, sequence)
);
