-- Events that have no rows yet, the oldest first; $1 = most of them.
SELECT sequence FROM hub.skipped_events ORDER BY sequence LIMIT $1
