"""What ASE reads: extended XYZ, databases, trajectories, and any other format."""
