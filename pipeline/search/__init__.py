"""The search space, proposals of candidates, decisions at rungs, and the choice of members."""
