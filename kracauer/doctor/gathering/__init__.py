"""Looks at the host, for the checks. Nothing is changed here but by `session`, which takes back what it does."""
