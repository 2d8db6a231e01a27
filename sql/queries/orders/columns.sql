SELECT
    external_order_id, provider, id::text AS id, branch_id, company_id, order_number, display_id, order_id, state, status,
    provider_status, said_at, first_at, last_at, forwarded_at, undelivered_since, given_up_at, attempts, next_attempt_at,
    cause_stage, cause_code, deadline, coalesce(undelivered_since IS NOT NULL AND deadline < now(), false) AS is_overdue,
    is_test, flags, last_sequence
FROM hub.orders
WHERE
