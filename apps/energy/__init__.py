"""Energy of compute nodes: sources, accounts of a node, and consumption of attempts."""
