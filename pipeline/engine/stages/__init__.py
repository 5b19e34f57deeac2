"""One module per stage: pure functions from settings and state to the next step."""
