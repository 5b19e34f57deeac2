"""Status and reports, from files alone."""
