"""Uncertainty: predictions of the members, calibration of their spread, and the deployable ensemble."""
