"""Checks that quarantine records, and warnings about labels and units."""
