"""`make bench`: what the service does, next to baselines on the same machine in the same run."""
