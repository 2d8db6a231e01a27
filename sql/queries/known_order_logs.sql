-- The rows of these orders (providers' ids $1, the providers' order ids $2).
SELECT o.id, o.order_id, o.provider_id, o.branch_id, o.external_order_id, o.mapped_status::text, o.created_at, o.updated_at
FROM (SELECT DISTINCT * FROM unnest($1::text[], $2::text[]) AS q (provider_id, external_order_id)) AS q
JOIN provider_order_logs o ON o.external_order_id = q.external_order_id AND o.provider_id = q.provider_id
