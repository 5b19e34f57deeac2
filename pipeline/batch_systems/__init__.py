"""Batch systems, one class each: how jobs are written, submitted, looked up and ended, and how steps are started."""
