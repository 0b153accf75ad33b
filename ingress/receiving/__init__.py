"""Webhooks in: verified, normalised, stored, answered."""
