-- Orders that the backend has. raw_data is the webhook as it came, from its row.
INSERT INTO {platform}.provider_order_logs (
    id, order_id, provider_id, branch_id, company_id, external_order_id, provider_status, mapped_status, delivery_type,
    actual_delivery, captain_name, captain_phone, captain_id, delivery_fee, service_fee, total_amount, payment_method,
    is_prepaid, created_at, updated_at, raw_data
)
SELECT o.id, o.order_id, o.provider_id, o.branch_id, o.company_id, o.external_order_id, o.provider_status,
    o.mapped_status::{types}.order_status, o.delivery_type, o.actual_delivery, o.captain_name, o.captain_phone, o.captain_id,
    o.delivery_fee::numeric, o.service_fee::numeric, o.total_amount::numeric, o.payment_method, o.is_prepaid, o.created_at,
    o.updated_at, w.payload
FROM unnest(
    $1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $10::text[],
    $11::text[], $12::text[], $13::text[], $14::text[], $15::boolean[], $16::text[], $17::text[], $18::timestamp[], $19::text[],
    $20::timestamp[], $21::timestamp[]
) AS o (
    id, order_id, provider_id, branch_id, company_id, external_order_id, delivery_type, captain_name, captain_phone, captain_id,
    delivery_fee, service_fee, total_amount, payment_method, is_prepaid, provider_status, mapped_status, actual_delivery, root_id,
    created_at, updated_at
)
LEFT JOIN {platform}.webhook_logs w ON w.id = o.root_id
ON CONFLICT DO NOTHING
