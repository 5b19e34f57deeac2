"""Attempts at tasks: their starts, their ends, and the actions after them."""
