"""Campaigns from Python; the command line is text above it."""
