-- What it needs besides where RETENTION_WEBHOOK_LOGS, RETENTION_DELIVERY_ERROR_LOGS or RETENTION_PROVIDER_ORDER_LOGS is set.

GRANT DELETE ON {platform}.webhook_logs TO {role};
GRANT DELETE ON {platform}.delivery_error_logs TO {role};
GRANT DELETE ON {platform}.provider_order_logs TO {role};
