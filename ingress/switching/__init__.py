"""Which provider an organization uses, and every change of it."""
