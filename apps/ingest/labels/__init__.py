"""What the keys of records mean, which of them are used, and what is said of those that are not."""
