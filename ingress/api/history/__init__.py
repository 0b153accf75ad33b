"""What was sent and what came in: one message, pages of them, and what became of each."""
