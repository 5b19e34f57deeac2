"""The check of a machine: a small job, and what its findings mean."""
