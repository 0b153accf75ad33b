"""`ingress serve --processes N`: a parent that keeps N workers, each of which serves as one process does."""
