#!/bin/sh
# Makes the hub's database and its two roles, neither of them a superuser: webhook_hub owns the tables and is used by `migrate` alone,
# webhook_hub_run is the running hub's. Sets their passwords to those in the secrets' files. Run again, it changes nothing else.
# docker-compose.yml runs it with psql's variables: PGHOST, PGUSER and so on.
set -eu
secrets=${SECRETS:-/run/secrets}
if [ -f "$secrets/postgres_password" ]; then
    PGPASSWORD=$(cat "$secrets/postgres_password")
    export PGPASSWORD
fi
OWNER_PASSWORD=$(cat "$secrets/database_password")
RUN_PASSWORD=$(cat "$secrets/database_run_password")
export OWNER_PASSWORD RUN_PASSWORD
psql --no-psqlrc --quiet -v ON_ERROR_STOP=1 --dbname postgres <<'SQL'
-- A statement that fails is written into the server's log, and with it the password; so is any statement where log_statement is set.
SET log_min_error_statement = panic;
SET log_statement = 'none';
SET log_min_duration_statement = -1;
\set owner_password `printf %s "$OWNER_PASSWORD"`
\set run_password `printf %s "$RUN_PASSWORD"`
SELECT format('CREATE ROLE %I', name) FROM unnest(ARRAY['webhook_hub', 'webhook_hub_run']) AS name
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) \gexec
ALTER ROLE webhook_hub LOGIN PASSWORD :'owner_password';
ALTER ROLE webhook_hub_run LOGIN PASSWORD :'run_password';
SELECT 'CREATE DATABASE webhook_hub OWNER webhook_hub'
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'webhook_hub') \gexec
SQL
