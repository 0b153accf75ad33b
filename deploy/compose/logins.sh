#!/bin/sh
# Run by the image of PostgreSQL when its volume is new. Two logins: one owns the database and is for migrations, the other owns
# nothing, and serves.
set -eu
psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --username="${POSTGRES_USER:-postgres}" --dbname=postgres <<'SQL'
\getenv owner_password OWNER_PASSWORD
\getenv service_password SERVICE_PASSWORD
create role ingress_owner login createrole password :'owner_password';
create database ingress owner ingress_owner;
create role ingress_service login noinherit password :'service_password';
-- Of Grafana, where compose.yaml runs it: k8s/components/monitoring/grafana-role.sql says what it may read.
\getenv boards_password BOARDS_PASSWORD
\if :{?boards_password}
create role ingress_boards nologin;
create role grafana login password :'boards_password' in role ingress_boards;
alter role grafana set default_transaction_read_only = on;
alter role grafana set statement_timeout = '5s';
grant pg_read_all_stats to grafana;
\endif
SQL
