-- Notes that the log of an era ($1) had forgotten these events ($2 to $3) before the tables came to them.
INSERT INTO hub.log_gaps (era, first_sequence, last_sequence) VALUES ($1, $2, $3)
ON CONFLICT (era, first_sequence) DO UPDATE SET last_sequence = greatest(hub.log_gaps.last_sequence, excluded.last_sequence)
