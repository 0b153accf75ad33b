"""What the service costs once its database is large, against a new one in the same run: `make scale`."""
