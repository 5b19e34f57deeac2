"""Shared fixtures."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Return the folder of small real datasets, or skip."""
    folder = os.environ.get("GFM_REAL_DATA")
    if not folder:
        pytest.skip("GFM_REAL_DATA is not set: real datasets are not at hand")
    return Path(folder)
