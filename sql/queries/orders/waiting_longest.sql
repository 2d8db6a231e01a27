    AND undelivered_since IS NOT NULL
    -- Behind the last one of the page before ($11, $12).
    AND ($11::timestamptz IS NULL OR (undelivered_since, id) > ($11, $12::text::uuid))
-- The column, not its text of the same name.
ORDER BY undelivered_since, orders.id
LIMIT $13
