"""Programs of the driver benchmark: they only sleep."""
