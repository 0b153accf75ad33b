"""The command `ingress`."""
