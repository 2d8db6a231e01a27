-- How far the tables ($1: their cursor) are, whether an instance writes them, and how many events have no rows.
SELECT position, moved_at, coalesce(holder IS NOT NULL AND held_until > clock_timestamp(), false) AS is_written,
    (SELECT count(*) FROM hub.skipped_events) AS skipped, current_setting('server_version') AS server_version
FROM hub.cursors WHERE name = $1
