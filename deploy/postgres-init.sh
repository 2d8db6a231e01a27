#!/bin/sh
# Run once by the postgres image, when its volume is empty: the hub's own database and role, which is no superuser.
set -eu
psql --no-psqlrc -v ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres <<'SQL'
\set password `cat /run/secrets/database_password`
create role webhook_hub login password :'password';
create database webhook_hub owner webhook_hub;
SQL
