"""Imports DeepHyper without its side effects."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_module(module: str) -> Iterator[None]:
    """Make ``import module`` raise ImportError for the duration.

    DeepHyper's optional MPI storage works without mpi4py, but fails if mpi4py has no MPI library,
    as on login nodes and laptops. Proposals need neither.
    """
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[module]


@contextmanager
def unchanged_root_logger() -> Iterator[None]:
    """Undo the handlers and the level that libraries give the root logger while they are imported."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
