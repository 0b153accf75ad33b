"""What was sent and what came in: one message, pages of them, and the timeline of each."""
