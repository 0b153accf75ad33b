"""Statements of what came in: webhooks as they came, the events in them, statuses and what waits."""
