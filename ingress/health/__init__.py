"""How accounts are doing, and what follows from it."""
