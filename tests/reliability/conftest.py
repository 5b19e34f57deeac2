"""What the reliability tests share with the end-to-end tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "e2e"))


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a pretended campaign that nothing happened to."""
    import pretended
    import runs

    folder = tmp_path_factory.mktemp("whole")
    runs.finish(folder, *pretended.write_campaign(folder))
    return folder
