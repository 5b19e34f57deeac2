"""The check of a machine: a small program that looks at what a training would be given."""
