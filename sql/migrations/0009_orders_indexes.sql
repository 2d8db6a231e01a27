-- For lists of orders, the newest first: all, those of a provider or a branch, and those with a cause or that were ignored, which are few.
CREATE INDEX orders_first_at ON hub.orders (first_at);
CREATE INDEX orders_provider ON hub.orders (provider, first_at);
CREATE INDEX orders_branch ON hub.orders (branch_id, first_at) WHERE branch_id IS NOT NULL;
CREATE INDEX orders_cause ON hub.orders (cause_code, first_at) WHERE cause_code IS NOT NULL;
CREATE INDEX orders_ignored ON hub.orders (first_at) WHERE state = 'ignored';
