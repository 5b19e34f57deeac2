"""Tables of structures: one row, one record."""
