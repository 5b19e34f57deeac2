"""One real Slurm for all tests here, or the reason why there is none."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import testbed

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.slurm)


@pytest.fixture(scope="session")
def running_bed() -> Iterator[testbed.TestBed]:
    reason = testbed.missing()
    if reason is not None:
        if os.environ.get("GFM_SLURM_REQUIRED"):
            pytest.fail(reason)
        pytest.skip(reason)
    with testbed.TestBed(4, 7) as bed:
        yield bed


@pytest.fixture
def bed(running_bed: testbed.TestBed) -> Iterator[testbed.TestBed]:
    """All nodes idle and no jobs, before and after."""
    yield running_bed
    running_bed.clear()
