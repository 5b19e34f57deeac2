"""Readers and generators of labelled structures, and the assembly of their shards to a dataset."""
