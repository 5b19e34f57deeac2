"""Generators of labelled structures."""
