    -- Behind the last one of the page before ($11, $12).
    AND ($11::timestamptz IS NULL OR (first_at, id) < ($11, $12::text::uuid))
-- The column, not its text of the same name.
ORDER BY first_at DESC, orders.id DESC
LIMIT $13
