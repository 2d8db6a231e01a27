-- The rows of these orders, by the providers' ids ($1) with the providers' order ids ($2), and by the providers' ids ($3) with the
-- backend's order ids ($4): the backend may answer with an order that has another number.
SELECT o.id, o.order_id, o.provider_id, o.branch_id, o.external_order_id, o.mapped_status::text, o.created_at, o.updated_at
FROM (SELECT DISTINCT * FROM unnest($1::text[], $2::text[]) AS q (provider_id, external_order_id)) AS q
JOIN {platform}.provider_order_logs o ON o.external_order_id = q.external_order_id AND o.provider_id = q.provider_id
UNION
SELECT o.id, o.order_id, o.provider_id, o.branch_id, o.external_order_id, o.mapped_status::text, o.created_at, o.updated_at
FROM (SELECT DISTINCT * FROM unnest($3::text[], $4::text[]) AS q (provider_id, order_id)) AS q
JOIN {platform}.provider_order_logs o ON o.order_id = q.order_id AND o.provider_id = q.provider_id
