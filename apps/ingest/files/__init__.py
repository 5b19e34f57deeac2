"""Files as readers see them: opened, unpacked, decoded, and nothing in them trusted."""
