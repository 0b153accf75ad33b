"""Statements of what goes out: claims, attempts and their outcomes, and what a process that died left."""
