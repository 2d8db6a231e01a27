-- What is another one whenever a row of either table is: how many rows there are, and a sum over their versions. A row that was
-- written again has another xmin or another place.
SELECT b.rows, b.versions, p.rows, p.versions
FROM (
    SELECT count(*) AS rows, sum(hashtext(xmin::text || ' ' || ctid::text)) AS versions
    FROM {platform}.branch_delivery_configs
) b, (
    SELECT count(*) AS rows, sum(hashtext(xmin::text || ' ' || ctid::text)) AS versions
    FROM {platform}.delivery_providers
) p
