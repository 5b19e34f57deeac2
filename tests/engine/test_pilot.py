"""Blocks of a driver that runs elsewhere: none is given up because one answer of the batch system lacks it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gfm_pipeline.batch_systems.base import JobInfo, JobState, missing
from gfm_pipeline.campaign.events import JobEnded, JobIntended, JobSubmitted
from gfm_pipeline.campaign.state import CampaignState
from gfm_pipeline.engine.resources.pilot_jobs import PilotFleet, PilotRequest


class Batch:
    """A batch system in memory that can be made blind."""

    system = "slurm"

    def __init__(self) -> None:
        self.names: list[str] = []
        self.blind = False
        self.asked = 0
        self.cancelled: list[str] = []

    def submit(self, script: Path, name: str) -> str:
        self.names.append(name)
        return str(len(self.names))

    def jobs(self, names):
        self.asked += 1
        if self.blind:
            return {name: missing(name) for name in names}
        return {n: JobInfo(str(self.names.index(n) + 1), n, JobState.RUNNING, ("n1",), "", 999.0) for n in names}

    def bad_nodes(self, nodes):
        return {}

    def cancel_by_name(self, name: str) -> None:
        self.cancelled.append(name)


class Maker:
    def script(self, name: str) -> Path:
        return Path(name)

    def ready(self, name: str) -> bool:
        return True

    def end(self, name: str) -> None:
        pass


class Fleet:
    """A fleet, its batch system, and what was recorded."""

    def __init__(self, missing_seconds: float) -> None:
        self.batch, self.state, self.events = Batch(), CampaignState(), []
        self.fleet = PilotFleet(
            PilotRequest(1, 1, 1.0, "batch", None, ("slurm", "east")), self.batch, Maker(), "gfm-x", 0.0,
            missing_seconds,
            1.0, lambda _: None, self.state,
        )  # fmt: skip

    def until(self, wanted: Callable[[], bool]) -> None:
        give_up = time.monotonic() + 20.0
        while not wanted():
            for event in self.fleet.tick(self.state, work=True):
                self.state.apply(event, 0.0)
                self.events.append(event)
            assert time.monotonic() < give_up, self.events
            time.sleep(0.001)

    def more_answers(self, count: int = 4) -> None:
        target = self.batch.asked + count
        self.until(lambda: self.batch.asked >= target)


@pytest.fixture
def up():
    """Return what makes a fleet with one block at work."""
    made = []

    def make(missing_seconds: float) -> Fleet:
        fleet = Fleet(missing_seconds)
        made.append(fleet)
        fleet.until(lambda: bool(fleet.fleet.pool.blocks()))
        return fleet

    yield make
    for fleet in made:
        fleet.fleet._background.close()


def test_a_block_is_kept_while_the_queue_is_blind(up):
    fleet = up(3600.0)
    fleet.batch.blind = True
    fleet.more_answers()
    fleet.batch.blind = False
    fleet.more_answers()
    assert fleet.fleet.lost() == []
    assert fleet.batch.names == ["gfm-x-b001"]
    assert [type(e) for e in fleet.events] == [JobIntended, JobSubmitted]
    assert (fleet.events[0].system, fleet.events[0].cluster) == ("slurm", "east")


def test_a_block_that_every_answer_lacks_is_given_up_and_cancelled(up):
    """It may live all the same: then it must not hold its nodes for nobody."""
    fleet = up(0.05)
    fleet.batch.blind = True
    fleet.until(lambda: any(isinstance(e, JobEnded) for e in fleet.events))
    (ended,) = [e for e in fleet.events if isinstance(e, JobEnded)]
    assert "vanished (missing from every answer" in ended.reason
    fleet.until(lambda: fleet.batch.cancelled == ["gfm-x-b001"])
    assert [name for name, _ in fleet.fleet.lost()][:1] == ["gfm-x-b001"]
