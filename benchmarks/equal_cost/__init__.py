"""Training of each side of ``benchmarks/accuracy.py`` for the same processor time: ours, mace-torch and nequip."""
