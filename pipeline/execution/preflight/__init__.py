"""The check of a machine: a small job, and the interpretation of its observations."""
