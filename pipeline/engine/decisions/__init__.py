"""Decisions of a campaign as pure functions: what comes next, what it costs, why it would run."""
