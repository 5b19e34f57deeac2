"""Decisions of a campaign as pure functions: the next steps, their costs, and the reasons."""
