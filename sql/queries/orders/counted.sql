SELECT
    count(*) AS orders,
    count(*) FILTER (WHERE given_up_at IS NOT NULL) AS given_up,
    count(*) FILTER (WHERE undelivered_since IS NOT NULL AND deadline < now()) AS overdue,
    count(*) FILTER (WHERE undelivered_since IS NOT NULL AND (given_up_at IS NOT NULL OR deadline < now())) AS need_a_person
FROM (
    SELECT given_up_at, undelivered_since, deadline FROM hub.orders WHERE
