"""The engine: pure decisions, and the driver that carries them out and records them."""
