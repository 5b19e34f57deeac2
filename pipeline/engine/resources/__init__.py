"""Requests and holds nodes and blocks, and assigns them to tasks."""
