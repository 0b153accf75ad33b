"""One message to one person: attempts, retries, fallback, and what became of it."""
