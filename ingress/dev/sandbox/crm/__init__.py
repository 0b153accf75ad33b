"""A CRM that takes events, and keeps the truth of what it took."""
