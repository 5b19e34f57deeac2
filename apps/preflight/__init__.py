"""The check of a machine: a small program that tests the environment of trainings."""
