"""Extended XYZ, parsed several times faster than by ASE."""
