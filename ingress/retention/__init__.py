"""How long what is stored is kept: what an organization may set, and the work of letting go of the rest."""
