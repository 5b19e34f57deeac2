"""What ingest and the driver agree on: limits of reading, label keys, previews and reports."""
