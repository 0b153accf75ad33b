"""`ingress doctor`: what is wrong with a set-up, and how it is mended. A check is a small function."""
