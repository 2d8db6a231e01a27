-- Begins an era ($1): what was found ($2), when its log was created ($3), how far the tables were ($4), and the common point ($5).
-- What was skipped of the log before is kept beside, for other events stand at its sequences.
WITH lost AS (
    DELETE FROM hub.skipped_events WHERE sequence > $5 RETURNING sequence, event_type, reason, noted_at
), kept AS (
    INSERT INTO hub.lost_skipped_events (era, sequence, event_type, reason, noted_at)
    SELECT $1::integer - 1, sequence, event_type, reason, noted_at FROM lost
    ON CONFLICT DO NOTHING
)
INSERT INTO hub.log_eras (era, found, log_created, position_before, common_point) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (era) DO NOTHING
