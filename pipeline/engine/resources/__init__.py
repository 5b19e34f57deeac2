"""Nodes and blocks: what a campaign asks for, what it has, and which task runs where."""
