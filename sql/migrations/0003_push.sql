-- Errors of what goes to a provider have no webhook; they are found by the request that they belong to.
CREATE INDEX IF NOT EXISTS hub_delivery_error_logs_root ON delivery_error_logs ((context->>'rootId')) WHERE webhook_log_id IS NULL;
