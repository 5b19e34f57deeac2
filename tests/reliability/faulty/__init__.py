"""A training that fails as it is told to, attempt by attempt, and otherwise pretends as `pretend.train` does."""
