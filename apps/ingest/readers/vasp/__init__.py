"""Outputs of VASP, and its training data of machine-learned force fields."""
