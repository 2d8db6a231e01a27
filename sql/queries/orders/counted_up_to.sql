    -- No more than so many are counted.
    LIMIT $11
) AS matching
