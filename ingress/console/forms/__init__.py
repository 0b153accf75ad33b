"""What people fill in, as what the API takes."""
