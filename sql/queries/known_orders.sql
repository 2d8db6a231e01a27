-- What hub.orders knows of the orders of these providers ($1) and numbers ($2), which are pairs.
SELECT
    o.external_order_id, o.provider, o.id::text AS id, o.branch_id, o.company_id, o.order_number, o.display_id, o.order_id, o.status,
    o.provider_status, o.said_at, o.first_at, o.last_at, o.forwarded_at, o.given_up_at, o.attempts, o.cause_stage,
    o.cause_code, o.deadline, o.is_test, o.flags, o.last_sequence, o.unsettled::text AS unsettled
FROM unnest($1::text[], $2::text[]) AS q (provider, external_order_id)
-- The provider is no condition of an index: PostgreSQL might else read all orders of the provider for each number.
JOIN {own}.orders o ON o.external_order_id = q.external_order_id AND o.provider || '' = q.provider
