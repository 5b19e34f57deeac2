"""Shared fixtures."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of a file together when several run at a time: they share fixtures. One Slurm does for all."""
    for item in items:
        name = item.path.relative_to(HERE)
        item.add_marker(pytest.mark.xdist_group("slurm" if name.parts[0] == "slurm" else str(name)))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Return the folder of small real datasets, or skip."""
    folder = os.environ.get("GFM_REAL_DATA")
    if not folder:
        pytest.skip("GFM_REAL_DATA is not set: real datasets are not at hand")
    return Path(folder)
