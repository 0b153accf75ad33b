"""Statements of what people look at: pages, searches, figures. They only read, or keep what is read."""
