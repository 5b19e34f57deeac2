"""Energy of compute nodes: its sources, the accounts of a node, and what an attempt used."""
