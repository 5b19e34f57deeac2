"""Machines as data: one YAML a site, its schema, and the launch lines built from it."""
