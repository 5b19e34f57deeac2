"""Frozen records that the engine and the programs on compute nodes exchange as JSON.

One module per program: `data` (ingest), `training` (train), `evaluation` (predict, calibrate), and `task` for the part
that every program shares. Nothing here imports torch, ADIOS2 or ASE.
"""
