"""Drafts of workflows from files of structures, for `gfm-pipeline init`."""
