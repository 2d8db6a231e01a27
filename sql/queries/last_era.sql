-- The last era that began.
SELECT coalesce(max(era), 0) FROM hub.log_eras
