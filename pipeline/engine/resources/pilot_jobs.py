"""Blocks of nodes that are batch jobs, for a driver that runs elsewhere (a login or workflow node).

One job per intent: the journal records a job's unique name before its submission. After a crash or a time-out of the
batch system, the next driver looks up this name before it submits again. A slow or failing batch
system makes the campaign wait, never fail.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from gfm_pipeline.batch_systems.base import JobInfo, JobState
from gfm_pipeline.batch_systems.commands import SchedulerTrouble
from gfm_pipeline.batch_systems.job_queue import JobQueue
from gfm_pipeline.campaign.events import Event, JobEnded, JobIntended, JobRole, JobSubmitted, NodeExcluded
from gfm_pipeline.campaign.interruption_events import SchedulerSilent, Suspended
from gfm_pipeline.campaign.state import CampaignState
from gfm_pipeline.core.errors import SchedulerUnavailable
from gfm_pipeline.engine.background import QueryResult
from gfm_pipeline.engine.resources.node_pool import NodePool
from gfm_pipeline.engine.resources.nodes import cancelled, suspects
from gfm_pipeline.engine.world import MACHINE_WORLD, World
from gfm_pipeline.execution.endings import JobEndings
from gfm_pipeline.execution.retry import Backoff

FRUITLESS = 3  # limit of consecutive blocks without a finished task: a permanent fault


class BlockMaker(Protocol):
    """Writes the batch script of a block, and knows when its worker pools have started."""

    def script(self, name: str) -> Path:
        """Write the script of block ``name`` and return its path."""

    def ready(self, name: str) -> bool:
        """Return whether the pools of the block have reported to Parsl."""

    def end(self, name: str) -> None:
        """Give the pools of an ending block no further tasks."""

    def suspended(self, names: Collection[str]) -> None:
        """Excuse the silence of the pools of these blocks, and only these."""


@dataclass(frozen=True)
class PilotRequest:
    """The blocks that a campaign requests.

    Parameters
    ----------
    blocks
        Number at a time.
    nodes, hours, queue
        Shape of each block.
    launches
        Number of launches per block at a time; None: no limit.
    place
        Batch system and cluster of the blocks.
    """

    blocks: int
    nodes: int
    hours: float
    queue: str
    launches: int | None = None
    place: tuple[str, str] = ("", "")


@dataclass
class _PilotJob:
    name: str
    job: str = ""
    info: JobInfo | None = None
    up: bool = False
    closing: bool = False
    cancelled: bool = False
    suspended: float | None = None  # since when (monotonic)
    finished_before: int = 0  # finished tasks of the campaign when the block started


class PilotFleet:
    """Blocks as batch jobs, requested and released as needed.

    Parameters
    ----------
    wanted
        Blocks.
    scheduler
        The batch system.
    maker
        Writes their scripts.
    prefix
        Prefix of the jobs' names; unique to the campaign.
    poll_seconds
        Between two looks at the queue.
    missing_seconds
        How long every answer must lack a job before it counts as ended.
    warning_seconds
        Time (s) before the end of a block's wall time at which its tasks are asked to save.
    hold_node
        Called with a node that will get no more tasks.
    state
        Facts from earlier drivers: their blocks are useless now, but their bad nodes matter.
    world
        The rest of the environment.
    """

    def __init__(
        self,
        wanted: PilotRequest,
        scheduler: JobQueue,
        maker: BlockMaker,
        prefix: str,
        poll_seconds: float,
        missing_seconds: float,
        warning_seconds: float,
        hold_node: Callable[[str], None],
        state: CampaignState,
        world: World = MACHINE_WORLD,
    ) -> None:
        self.pool = NodePool(wanted.launches)
        self.pool.excluded = dict(state.excluded)
        self._requested, self._scheduler, self._maker, self._prefix = wanted, scheduler, maker, prefix
        self._poll_seconds, self._warning_seconds, self._hold_node = poll_seconds, warning_seconds, hold_node
        self._blocks: dict[str, _PilotJob] = {}
        self._lost: list[tuple[str, str]] = []
        self._clock, self._background = world.clock, world.queries()
        self._patience = Backoff()
        self._next_poll = self._not_before = 0.0
        self._endings = JobEndings(missing_seconds)
        self._fruitless = 0
        # Blocks of an earlier driver connect to its sockets, not to ours.
        self._stale = list(state.open_jobs(JobRole.BLOCK))

    def tick(self, state: CampaignState, *, work: bool) -> Iterator[Event]:
        """Manage the blocks: process answers, close ending blocks, submit missing ones."""
        now = self._clock.monotonic()
        for answer in self._background.results():
            yield from self._add_block(answer, state, now)
        if now < self._not_before:
            return
        for name in self._stale:
            self._background.submit(f"clear {name}", partial(self._scheduler.cancel_by_name, name))
        for node, reason in suspects(state, self.pool.excluded).items():
            yield self._exclude(node, reason)
        self._poll_jobs(now)
        for block in self._blocks.values():
            self._follow_job(block, state, now)
        if work and not self._stale and sum(not b.closing for b in self._blocks.values()) < self._requested.blocks:
            yield from self._request(state)

    def _poll_jobs(self, now: float) -> None:
        if now >= self._next_poll and self._blocks:
            self._next_poll = now + self._poll_seconds
            names = [b.name for b in self._blocks.values() if b.job]
            if names:
                self._background.submit("jobs", lambda: self._scheduler.jobs(names))
            nodes = [n for b in self.pool.blocks() for n in self.pool.usable(b)]
            if nodes:
                self._background.submit("bad nodes", lambda: self._scheduler.bad_nodes(nodes))

    def _follow_job(self, block: _PilotJob, state: CampaignState, now: float) -> None:
        """Add a block when its pools report, close it when its time is nearly over, end it when it is idle."""
        info = block.info
        if info is None or info.state is not JobState.RUNNING:
            return
        if not block.up and info.nodes and self._maker.ready(block.name):
            block.up, block.finished_before = True, _finished(state)
            left = float("inf") if info.seconds_left is None else info.seconds_left
            self.pool.add(block.name, info.nodes, now + left - self._warning_seconds, block.job)
        if block.up and not block.closing and self.pool.ends_at(block.name) <= now:
            block.closing = True
            self.pool.close(block.name)
            self._maker.end(block.name)
        if block.closing and not block.cancelled and self.pool.idle(block.name):
            block.cancelled = True
            self._background.submit(f"cancel {block.name}", lambda: self._scheduler.cancel([block.job]))

    def _request(self, state: CampaignState) -> Iterator[Event]:
        if self._fruitless >= FRUITLESS:
            raise SchedulerUnavailable(
                f"{FRUITLESS} blocks in a row ended without a finished task.",
                "Their output is in the campaign's folder jobs.",
            )
        number = sum(j.intent.role is JobRole.BLOCK for j in state.jobs.values()) + 1
        name = f"{self._prefix}-b{number:03d}"
        self._blocks[name] = _PilotJob(name)
        shape = (self._requested.nodes, self._requested.hours, self._requested.queue)
        yield JobIntended(name, JobRole.BLOCK, *shape, "", *self._requested.place)
        self._submit(name)

    def _submit(self, name: str) -> None:
        script = self._maker.script(name)
        self._background.submit(f"submit {name}", lambda: self._scheduler.submit(script, name))

    def _add_block(self, answer: QueryResult, state: CampaignState, now: float) -> Iterator[Event]:
        what, _, name = answer.what.partition(" ")
        if isinstance(answer.error, SchedulerTrouble):
            self._patience = self._patience.after_trouble(now)
            self._not_before = self._patience.until
            if state.scheduler_silent is None:
                yield SchedulerSilent(str(answer.error))
            if what == "submit" and name in self._blocks:
                self._submit(name)  # repeat under the same name, which is looked up first
            if what == "cancel" and name in self._blocks:
                self._blocks[name].cancelled = False
            return
        if answer.error is not None:
            raise answer.error
        self._patience = self._patience.after_success()
        if state.scheduler_silent is not None:
            yield SchedulerSilent(None)
        match what:
            case "submit":
                self._blocks[name].job = answer.value
                self._next_poll = now
                yield JobSubmitted(name, answer.value)
            case "clear":
                self._stale.remove(name)
                yield JobEnded(name, "its driver died")
            case "jobs":
                yield from self._jobs(answer.value, state, now)
            case "bad":
                for node, reason in answer.value.items():
                    if node not in self.pool.excluded:
                        yield self._exclude(node, reason)

    def _jobs(self, found: Mapping[str, JobInfo], state: CampaignState, now: float) -> Iterator[Event]:
        for block in list(self._blocks.values()):
            if block.name not in found or not block.job:
                continue
            info = self._endings.judge(block.name, found[block.name], now)
            if info.state is JobState.UNKNOWN:
                continue  # the last known facts remain valid
            block.info = info
            yield from self._record_end(block, info)
            if info.state.has_ended:
                if info.state is JobState.VANISHED:  # if it is alive nevertheless, it holds nodes without use
                    self._background.submit(f"cancel {block.name}", partial(self._scheduler.cancel_by_name, block.name))
                reason = f"job {block.job} {info.state}" + (f" ({info.reason})" if info.reason else "")
                self._forget(block, reason, state)
                yield JobEnded(block.name, reason)

    def _record_end(self, block: _PilotJob, info: JobInfo) -> Iterator[Event]:
        """Process whether a block is suspended."""
        still = info.state is JobState.SUSPENDED
        if still != (block.suspended is not None):
            seconds = None if still else self._clock.monotonic() - (block.suspended or 0.0)
            block.suspended = self._clock.monotonic() if still else None
            self._maker.suspended(self.suspended())
            yield Suspended(block.name, seconds)

    def _forget(self, block: _PilotJob, reason: str, state: CampaignState) -> None:
        fruitful = block.up and (_finished(state) > block.finished_before or block.closing)
        self._fruitless = 0 if fruitful else self._fruitless + 1
        del self._blocks[block.name]
        self.pool.remove(block.name)
        self._maker.end(block.name)
        self._lost.append((block.name, reason))

    def _exclude(self, node: str, reason: str) -> NodeExcluded:
        self.pool.exclude(node, reason)
        self._hold_node(node)
        return NodeExcluded(node, reason)

    def held_since(self, block: str) -> float | None:  # noqa: ARG002 - it is looked for every second or so
        """Return nothing: since now."""
        return None

    def ending(self) -> str | None:
        """Return nothing: the driver has no wall time."""
        return None

    def closing(self) -> frozenset[str]:
        """Return the blocks whose wall time is nearly over."""
        return frozenset(b.name for b in self._blocks.values() if b.closing)

    def ends_here(self) -> str | None:
        """Return nothing: there is no chain."""
        return None

    def suspended(self) -> frozenset[str]:
        """Return the blocks that the batch system has suspended."""
        return frozenset(b.name for b in self._blocks.values() if b.suspended is not None)

    def lost(self) -> list[tuple[str, str]]:
        """Return the blocks lost since the last call, each with the reason."""
        found, self._lost = self._lost, []
        return found

    def close(self, state: CampaignState, *, goes_on: bool) -> Iterator[Event]:  # noqa: ARG002 - a later driver has its own
        """Cancel every block by name, even if its submission was only intended."""
        self._background.close()
        for name in state.open_jobs(JobRole.BLOCK):
            if cancelled(self._scheduler, name, self._clock):
                yield JobEnded(name, "given back")


def _finished(state: CampaignState) -> int:
    return sum(t.result is not None for s in state.stages.values() for t in s.tasks.values())
