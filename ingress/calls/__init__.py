"""Everything that leaves the process to a provider or a CRM."""
