"""Who an organization speaks with: contacts, and what each of them may ask for by law."""
