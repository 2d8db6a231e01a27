-- News of orders that have a row, as the projection worked them out. NULL leaves a column as it is.
UPDATE {platform}.provider_order_logs o SET
    provider_status = coalesce(u.provider_status, o.provider_status),
    mapped_status = coalesce(u.mapped_status::{types}.order_status, o.mapped_status),
    actual_delivery = coalesce(u.actual_delivery, o.actual_delivery),
    captain_name = coalesce(u.captain_name, o.captain_name),
    captain_phone = coalesce(u.captain_phone, o.captain_phone),
    captain_id = coalesce(u.captain_id, o.captain_id),
    updated_at = u.updated_at
FROM unnest(
    $1::text[], $2::text[], $3::text[], $4::timestamp[], $5::text[], $6::text[], $7::text[], $8::timestamp[]
) AS u (id, provider_status, mapped_status, actual_delivery, captain_name, captain_phone, captain_id, updated_at)
WHERE o.id = u.id
