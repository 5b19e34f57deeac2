"""Batch systems, one class each: they write, submit, look up and end jobs, and start steps."""
