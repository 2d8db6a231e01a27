-- Which schema of the platform this bookkeeping is about. Another one would need another position.
CREATE TABLE hub.platform (schema_name text PRIMARY KEY);
INSERT INTO hub.platform (schema_name) VALUES (btrim('{platform}', '"'));

-- Earlier versions left it to search_path where the platform's tables are. For a role named hub that was this schema, where they made
-- empty tables of their own and wrote those. Then the platform's lack all rows: they are written from the log, from its beginning.
UPDATE hub.cursors SET position = 0
WHERE '{platform}' <> '"hub"'
    AND EXISTS (
        SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = 'hub' AND c.relname = 'webhook_logs'
    );
