-- The index that was made here is made without a lock by now; see projection::indexes.
SELECT 1;
