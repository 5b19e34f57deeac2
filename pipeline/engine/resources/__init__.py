"""Nodes and blocks: requested, held, and assigned to tasks."""
