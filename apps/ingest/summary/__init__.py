"""What is said of a dataset: statistics, reference energies, histograms, provenance, the report."""
