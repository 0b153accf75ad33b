"""Accounts at providers: their configs, whose they are, and which cannot be used."""
