"""One real Slurm for all tests here, or the reason why there is none."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import testbed
from bed_campaigns import Run, reference
from machines import Machine

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.slurm)


@pytest.fixture(scope="session")
def slurm_here() -> None:
    """Skip, with the reason, where no test bed can run."""
    reason = testbed.missing()
    if reason is not None:
        if os.environ.get("GFM_SLURM_REQUIRED"):
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture(scope="session")
def running_bed(slurm_here: None) -> Iterator[testbed.TestBed]:
    with testbed.TestBed(4, 7) as bed:
        yield bed


@pytest.fixture
def bed(running_bed: testbed.TestBed) -> Iterator[testbed.TestBed]:
    """All nodes idle and no jobs, before and after."""
    yield running_bed
    running_bed.clear()


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The campaign of these tests on this machine alone, uninterrupted."""
    return reference(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def start(bed, tmp_path) -> Iterator:
    """Start a campaign, and end what is left of it after the test."""
    begun: list[Run] = []

    def begin(machine: Machine, mode: str, within: str = "", **settings) -> Run:
        run = Run(bed, machine, tmp_path / within / f"{machine.site}-{mode}", mode, **settings)
        begun.append(run)
        run.start()
        return run

    yield begin
    for run in begun:
        run.clean_up()
