-- Rows of hub.orders, new or as they are now.
INSERT INTO {own}.orders (
    external_order_id, provider, id, branch_id, company_id, order_number, display_id, order_id, state, status,
    provider_status, said_at, first_at, last_at, forwarded_at, undelivered_since, given_up_at, attempts, next_attempt_at,
    cause_stage, cause_code, deadline, is_test, flags, last_sequence, unsettled
)
SELECT
    external_order_id, provider, id::uuid, branch_id, company_id, order_number, display_id, order_id, state, status,
    provider_status, said_at, first_at, last_at, forwarded_at, undelivered_since, given_up_at, attempts, next_attempt_at,
    cause_stage, cause_code, deadline, is_test, string_to_array(flags, ','), last_sequence, unsettled::jsonb
FROM unnest(
    $1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $10::text[],
    $11::text[], $12::timestamptz[], $13::timestamptz[], $14::timestamptz[], $15::timestamptz[], $16::timestamptz[],
    $17::timestamptz[], $18::integer[], $19::timestamptz[], $20::text[], $21::text[], $22::timestamptz[], $23::boolean[],
    $24::text[], $25::bigint[], $26::text[]
) AS o (
    external_order_id, provider, id, branch_id, company_id, order_number, display_id, order_id, state, status,
    provider_status, said_at, first_at, last_at, forwarded_at, undelivered_since, given_up_at, attempts, next_attempt_at,
    cause_stage, cause_code, deadline, is_test, flags, last_sequence, unsettled
)
ON CONFLICT (external_order_id, provider, id) DO UPDATE SET
    branch_id = excluded.branch_id, company_id = excluded.company_id, order_number = excluded.order_number, display_id =
    excluded.display_id, order_id = excluded.order_id, state = excluded.state, status = excluded.status, provider_status =
    excluded.provider_status, said_at = excluded.said_at, first_at = excluded.first_at, last_at = excluded.last_at,
    forwarded_at = excluded.forwarded_at, undelivered_since = excluded.undelivered_since, given_up_at =
    excluded.given_up_at, attempts = excluded.attempts, next_attempt_at = excluded.next_attempt_at, cause_stage =
    excluded.cause_stage, cause_code = excluded.cause_code, deadline = excluded.deadline, is_test = excluded.is_test, flags
    = excluded.flags, last_sequence = excluded.last_sequence, unsettled = excluded.unsettled
