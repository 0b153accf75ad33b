"""The PostgreSQL and the Valkey that `ingress run` brings along."""
