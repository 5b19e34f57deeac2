"""The contract between ingest and the driver: limits of reading, label keys, previews and reports."""
