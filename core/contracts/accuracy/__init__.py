"""Records of the accuracy of ensembles on parts of the data."""
