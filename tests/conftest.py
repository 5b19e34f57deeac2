"""Shared fixtures."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


# Under `nohup`, or in the background of a script, tests would start programs that ignore the signals they are sent.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)

# Several files of tests run beside each other, each in a process: OpenMP threads that wait for a core would spin on it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

LONG_FIRST = ("slurm", "reliability", "e2e")  # folders: what takes minutes is begun first, so that no file ends alone


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent

    def turn(item: pytest.Item) -> int:
        folder = item.path.relative_to(here).parts[0]
        return LONG_FIRST.index(folder) if folder in LONG_FIRST else len(LONG_FIRST)

    items.sort(key=turn)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Return the folder of small real datasets, or skip."""
    folder = os.environ.get("GFM_REAL_DATA")
    if not folder:
        pytest.skip("GFM_REAL_DATA is not set: real datasets are not at hand")
    return Path(folder)
