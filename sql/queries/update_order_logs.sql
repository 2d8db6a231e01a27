-- Changes of orders that have a row, one of each order. News about the courier alone has no status. What has ended stays so:
-- news that come late bring no order back.
UPDATE provider_order_logs o SET
    provider_status = coalesce(nullif(u.provider_status, ''), o.provider_status),
    mapped_status = CASE
        WHEN o.mapped_status IN ('delivered', 'cancelled', 'refunded') AND u.mapped_status IS DISTINCT FROM 'refunded'
        THEN o.mapped_status ELSE coalesce(u.mapped_status::order_status, o.mapped_status)
    END,
    captain_name = coalesce(u.captain_name, o.captain_name),
    captain_phone = coalesce(u.captain_phone, o.captain_phone),
    captain_id = coalesce(u.captain_id, o.captain_id),
    actual_delivery = CASE WHEN u.mapped_status = 'delivered' THEN u.at ELSE o.actual_delivery END,
    updated_at = u.at
FROM unnest(
    $1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::timestamp[]
) AS u (provider_id, external_order_id, provider_status, mapped_status, captain_name, captain_phone, captain_id, at)
WHERE o.provider_id = u.provider_id AND o.external_order_id = u.external_order_id
