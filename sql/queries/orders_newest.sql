    -- Behind the last one of the page before ($11, $12).
    AND ($11::timestamptz IS NULL OR (first_at, id) < ($11, $12::text::uuid))
ORDER BY first_at DESC, id DESC
LIMIT $13
