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
SQL
