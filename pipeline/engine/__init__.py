"""Decide, do, record: the pure decisions and the driver that carries them out."""
