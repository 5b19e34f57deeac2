"""Machines as data: one YAML file per site, its schema, and the launch lines built from it."""
