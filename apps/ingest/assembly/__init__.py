"""From the records of a source to one shuffled dataset with splits."""
