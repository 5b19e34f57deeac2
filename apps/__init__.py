"""Programs that run on compute nodes."""
