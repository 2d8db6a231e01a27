-- Every provider's id by its code.
SELECT code, id FROM delivery_providers
