"""Summaries of a dataset: statistics, reference energies, histograms, provenance, the report."""
