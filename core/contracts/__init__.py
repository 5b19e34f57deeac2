"""Frozen records that the engine and the programs on compute nodes exchange as JSON.

One module a program: `data` (ingest), `training` (train), `evaluation` (predict, calibrate),
and `task` for what every program shares. Nothing here imports torch, ADIOS2 or ASE.
"""
