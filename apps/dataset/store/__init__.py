"""Datasets on disk: the ADIOS2 layout, indexes, packed edges."""
