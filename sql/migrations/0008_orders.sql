-- One row an order, for who operates the hub: where it stands, what the provider last said, why it has not arrived. Nothing of the
-- customer. The hub makes it of the event log; docs/orders-table.md tells what the columns mean.
CREATE TABLE hub.orders (
    external_order_id text NOT NULL,
    provider text NOT NULL,
    id uuid NOT NULL,
    branch_id text,
    company_id text,
    order_number text,
    display_id text,
    order_id text,
    state text NOT NULL,
    status text,
    provider_status text,
    said_at timestamptz(3),
    first_at timestamptz(3) NOT NULL,
    last_at timestamptz(3) NOT NULL,
    forwarded_at timestamptz(3),
    undelivered_since timestamptz(3),
    given_up_at timestamptz(3),
    attempts integer NOT NULL,
    next_attempt_at timestamptz(3),
    cause_stage text,
    cause_code text,
    deadline timestamptz(3),
    is_test boolean NOT NULL,
    flags text[] NOT NULL,
    last_sequence bigint NOT NULL,
    unsettled jsonb,
    -- Also how an order is found by the provider's number.
    PRIMARY KEY (external_order_id, provider, id)
-- Room for another version of a row beside it: what does not change an index then changes the table's page alone.
) WITH (fillfactor = 80);
CREATE INDEX orders_order_number ON hub.orders (order_number) WHERE order_number IS NOT NULL;
CREATE INDEX orders_display_id ON hub.orders (display_id) WHERE display_id IS NOT NULL;
CREATE INDEX orders_order_id ON hub.orders (order_id) WHERE order_id IS NOT NULL;
-- Few rows have an entry in these.
CREATE INDEX orders_undelivered ON hub.orders (undelivered_since) WHERE undelivered_since IS NOT NULL;
CREATE INDEX orders_given_up ON hub.orders (given_up_at) WHERE given_up_at IS NOT NULL;

-- Which version of a projection of the hub's own made its rows, up to where on the log, and in which era.
CREATE TABLE hub.projections (
    name text PRIMARY KEY,
    version integer NOT NULL,
    position bigint NOT NULL,
    era integer NOT NULL
);
