"""One module per reader of structures."""
