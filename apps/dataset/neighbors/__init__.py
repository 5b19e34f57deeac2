"""Neighbor lists: of single structures, of small molecules together, of batches on the device."""
