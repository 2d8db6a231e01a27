-- An event ($1 = its sequence) has its rows now.
DELETE FROM hub.skipped_events WHERE sequence = $1
