"""The audit trail: what is written of each change, and whether anybody changed that."""
