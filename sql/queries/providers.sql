-- Every provider's id by its code.
SELECT code, id FROM {platform}.delivery_providers
