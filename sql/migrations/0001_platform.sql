-- The platform's tables, where they are absent (a new machine). Where they are there, nothing is touched.
-- The shape is the platform's: ids are text, times timestamp(3) in UTC, JSON jsonb.

DO $$ BEGIN
    CREATE TYPE {platform}."WebhookStatus" AS ENUM ('received', 'pending', 'processing', 'completed', 'failed', 'retrying', 'ignored');
EXCEPTION WHEN duplicate_object THEN NULL;
END $$;

DO $$ BEGIN
    CREATE TYPE {platform}.order_status AS ENUM ('pending', 'confirmed', 'preparing', 'ready_for_pickup', 'out_for_delivery', 'delivered', 'cancelled', 'refunded');
EXCEPTION WHEN duplicate_object THEN NULL;
END $$;

CREATE TABLE IF NOT EXISTS {platform}.delivery_providers (
    id text PRIMARY KEY,
    code text NOT NULL UNIQUE,
    name text NOT NULL,
    api_base_url text,
    is_active boolean NOT NULL DEFAULT true,
    config jsonb,
    rate_limit_per_minute integer NOT NULL DEFAULT 100,
    created_at timestamp(3) NOT NULL DEFAULT (now() AT TIME ZONE 'UTC'),
    updated_at timestamp(3) NOT NULL DEFAULT (now() AT TIME ZONE 'UTC')
);

CREATE TABLE IF NOT EXISTS {platform}.branch_delivery_configs (
    id text PRIMARY KEY,
    branch_id text NOT NULL,
    provider_id text NOT NULL REFERENCES {platform}.delivery_providers (id),
    company_id text NOT NULL,
    merchant_id text,
    store_id text,
    api_key text,
    api_secret text,
    webhook_secret text,
    is_active boolean NOT NULL DEFAULT true,
    auto_accept_orders boolean NOT NULL DEFAULT false,
    sync_menu boolean NOT NULL DEFAULT true,
    settings jsonb,
    created_at timestamp(3) NOT NULL DEFAULT (now() AT TIME ZONE 'UTC'),
    updated_at timestamp(3) NOT NULL DEFAULT (now() AT TIME ZONE 'UTC'),
    UNIQUE (branch_id, provider_id)
);

CREATE TABLE IF NOT EXISTS {platform}.orders (
    id text PRIMARY KEY,
    order_number text NOT NULL UNIQUE,
    branch_id text NOT NULL,
    provider_order_id text,
    status {platform}.order_status NOT NULL DEFAULT 'pending',
    created_at timestamp(3) NOT NULL DEFAULT (now() AT TIME ZONE 'UTC'),
    updated_at timestamp(3) NOT NULL DEFAULT (now() AT TIME ZONE 'UTC')
);

CREATE TABLE IF NOT EXISTS {platform}.webhook_logs (
    id text PRIMARY KEY,
    provider_id text NOT NULL REFERENCES {platform}.delivery_providers (id),
    branch_id text,
    company_id text,
    webhook_type text NOT NULL,
    external_order_id text,
    internal_order_id text,
    endpoint text NOT NULL,
    method text NOT NULL DEFAULT 'POST',
    headers jsonb,
    payload jsonb NOT NULL,
    signature text,
    ip_address text,
    status {platform}."WebhookStatus" NOT NULL DEFAULT 'received',
    processed_at timestamp(3),
    retry_count integer NOT NULL DEFAULT 0,
    max_retries integer NOT NULL DEFAULT 10,
    next_retry_at timestamp(3),
    response jsonb,
    error_message text,
    error_stack text,
    received_at timestamp(3) NOT NULL DEFAULT (now() AT TIME ZONE 'UTC'),
    created_at timestamp(3) NOT NULL DEFAULT (now() AT TIME ZONE 'UTC'),
    updated_at timestamp(3) NOT NULL DEFAULT (now() AT TIME ZONE 'UTC')
-- Room for another version of a row beside it: no column of an index changes, so an update then changes the table's page alone.
) WITH (fillfactor = 70);

CREATE TABLE IF NOT EXISTS {platform}.delivery_error_logs (
    id text PRIMARY KEY,
    provider_id text NOT NULL REFERENCES {platform}.delivery_providers (id),
    branch_id text,
    company_id text,
    webhook_log_id text REFERENCES {platform}.webhook_logs (id),
    order_id text,
    error_type text NOT NULL,
    error_code text,
    error_message text NOT NULL,
    error_stack text,
    error_details jsonb,
    context jsonb,
    request_data jsonb,
    response_data jsonb,
    retry_count integer NOT NULL DEFAULT 0,
    next_retry_at timestamp(3),
    moved_to_dead_letter_at timestamp(3),
    is_resolved boolean NOT NULL DEFAULT false,
    resolved_at timestamp(3),
    resolved_by text,
    resolution_notes text,
    occurred_at timestamp(3) NOT NULL DEFAULT (now() AT TIME ZONE 'UTC'),
    created_at timestamp(3) NOT NULL DEFAULT (now() AT TIME ZONE 'UTC'),
    updated_at timestamp(3) NOT NULL DEFAULT (now() AT TIME ZONE 'UTC')
);

CREATE TABLE IF NOT EXISTS {platform}.provider_order_logs (
    id text PRIMARY KEY,
    order_id text NOT NULL,
    provider_id text NOT NULL REFERENCES {platform}.delivery_providers (id),
    branch_id text NOT NULL,
    company_id text NOT NULL,
    external_order_id text NOT NULL,
    provider_status text NOT NULL,
    mapped_status {platform}.order_status,
    delivery_type text,
    estimated_delivery timestamp(3),
    actual_delivery timestamp(3),
    captain_name text,
    captain_phone text,
    captain_id text,
    delivery_fee numeric,
    service_fee numeric,
    total_amount numeric,
    payment_method text,
    is_prepaid boolean NOT NULL DEFAULT false,
    raw_data jsonb,
    created_at timestamp(3) NOT NULL DEFAULT (now() AT TIME ZONE 'UTC'),
    updated_at timestamp(3) NOT NULL DEFAULT (now() AT TIME ZONE 'UTC'),
    UNIQUE (order_id, provider_id)
);
