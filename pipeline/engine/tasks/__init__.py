"""Attempts at tasks: how they start, how they end, and what follows."""
