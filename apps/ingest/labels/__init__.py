"""Meaning of the keys of records, their uses, and warnings about unused keys."""
