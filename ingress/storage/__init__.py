"""Where facts are kept: PostgreSQL, what Redis makes faster, and secrets at rest."""
