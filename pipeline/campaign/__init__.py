"""A campaign on disk: paths, journal, state as a fold over events, lock, identity."""
