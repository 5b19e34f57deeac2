"""What decides which records are set aside, and what is said of labels and units."""
