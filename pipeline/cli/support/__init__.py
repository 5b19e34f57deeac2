"""Shared code of commands: options of unusual kinds, lazy loading, output that outlives a terminal."""
