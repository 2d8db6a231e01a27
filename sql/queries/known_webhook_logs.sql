-- Of these webhooks ($1) those that have a row.
SELECT id, status = 'completed', updated_at FROM {platform}.webhook_logs WHERE id = ANY ($1::text[])
