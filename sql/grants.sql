-- What the role of the running hub needs, and nothing more. `webhook-hub migrate --print-grants ROLE` prints this with the names of
-- the installation; the owner of the tables runs that once, and again after each migration. The hub reads the same text: where its
-- role lacks one of these rights it says which.

GRANT CONNECT ON DATABASE {database} TO {role};
GRANT USAGE ON SCHEMA {platform}, hub TO {role};

-- The branches of providers. Of the credentials that stand there only webhook_secret.
GRANT SELECT (id, code, is_active, api_base_url) ON {platform}.delivery_providers TO {role};
GRANT SELECT (id, branch_id, provider_id, company_id, merchant_id, store_id, webhook_secret, is_active, auto_accept_orders, settings) ON {platform}.branch_delivery_configs TO {role};
-- Whether one of these rows has changed: without this right all of them are read every time. A view has no such columns.
GRANT SELECT (xmin, ctid) ON {platform}.delivery_providers, {platform}.branch_delivery_configs TO {role};
-- An enabled provider that has no row gets one.
GRANT INSERT (id, code, name, is_active, rate_limit_per_minute, created_at, updated_at) ON {platform}.delivery_providers TO {role};

-- The tables that it writes.
GRANT SELECT, INSERT, UPDATE ON {platform}.webhook_logs, {platform}.delivery_error_logs, {platform}.provider_order_logs TO {role};

-- Its own bookkeeping. What the migrations did it only reads.
GRANT SELECT ON hub.migrations, hub.platform TO {role};
GRANT SELECT, INSERT, UPDATE ON hub.cursors TO {role};
GRANT SELECT, INSERT, UPDATE, DELETE ON hub.skipped_events TO {role};
-- What it notes where the event log went back, is another one, or forgot events.
GRANT SELECT, INSERT ON hub.log_eras, hub.lost_skipped_events TO {role};
GRANT SELECT, INSERT, UPDATE ON hub.log_gaps TO {role};
-- The tables of its own that follow from the event log (hub.orders), and which version made their rows.
GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON {own_tables} TO {role};
GRANT SELECT, INSERT, UPDATE ON hub.projections TO {role};
