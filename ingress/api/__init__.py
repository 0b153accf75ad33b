"""The HTTP API: each handler decodes, calls, and answers."""
