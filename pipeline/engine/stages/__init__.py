"""One module a stage: pure functions from settings and state to the next step."""
