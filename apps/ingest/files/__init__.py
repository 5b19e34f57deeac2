"""Opens, unpacks and decodes files for readers, without trust in their content."""
