"""What the commands share: options of unusual kinds, lazy loading, output that outlives a terminal."""
