"""Readers through ASE: extended XYZ, databases, trajectories, and any other format."""
