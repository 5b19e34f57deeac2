"""Parsl as the launch layer."""
