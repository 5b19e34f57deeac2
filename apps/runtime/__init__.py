"""Starts, watches and ends processes on compute nodes: ranks, launches, the task wrapper, Parsl's workers."""
