"""Lets Python processes of the test bed believe in the cores of their pretend node: this machine has fewer."""

import os

_cores = set(range(128))


def _get(pid: int, /) -> set[int]:
    return set(_cores)


def _set(pid: int, cores, /) -> None:
    _cores.clear()
    _cores.update(cores)


os.sched_getaffinity = _get
os.sched_setaffinity = _set
