"""One message to one person: attempts, retries, fallback, and the outcome."""
