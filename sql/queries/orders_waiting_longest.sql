    AND undelivered_since IS NOT NULL
    -- Behind the last one of the page before ($11, $12).
    AND ($11::timestamptz IS NULL OR (undelivered_since, id) > ($11, $12::text::uuid))
ORDER BY undelivered_since, id
LIMIT $13
