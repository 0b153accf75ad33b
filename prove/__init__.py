"""The proof that changing the provider loses nothing: `make prove`."""
