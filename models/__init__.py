"""PyTorch models for atomistic graphs. Knows nothing of files, MPI or campaigns."""
