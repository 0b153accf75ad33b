"""People: what they are known by, who is one and the same, and the conversations they are part of."""
