"""The nodes of a campaign: their number, remaining time, faults, and placement of tasks.

A driver that holds its nodes (this machine, or the batch job it runs in) has one block. A driver elsewhere has blocks
that are batch jobs: see `gfm_pipeline.engine.resources.pilot_jobs`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from gfm_pipeline.batch_systems.commands import SchedulerTrouble, SubmissionRefused
from gfm_pipeline.batch_systems.job_queue import JobQueue
from gfm_pipeline.campaign.events import Event, JobEnded, NodeExcluded
from gfm_pipeline.campaign.interruption_events import SchedulerSilent
from gfm_pipeline.campaign.state import CampaignState
from gfm_pipeline.core.clock import Clock
from gfm_pipeline.engine.background import QueryResult
from gfm_pipeline.engine.resources.job_chain import Chain
from gfm_pipeline.engine.resources.node_pool import NodePool, Placement
from gfm_pipeline.engine.world import MACHINE_WORLD, World
from gfm_pipeline.execution.endings import JobEndings
from gfm_pipeline.execution.launcher import HERE
from gfm_pipeline.execution.retry import Backoff
from gfm_pipeline.execution.size_class import SizeClass

LEAST_SECONDS = 60.0  # least wall time left (s) for a useful start
CANCEL_SECONDS = 120.0  # longest time (s) for cancelling a job at the end
STRIKES = 2  # failures of different tasks after which their common node is suspect


class Fleet(Protocol):
    """Nodes, and the placement of tasks on them."""

    pool: NodePool

    def tick(self, state: CampaignState, *, work: bool) -> Iterable[Event]:
        """Manage the nodes and return their events; ``work``: whether any task remains."""

    def held_since(self, block: str) -> float | None:
        """Return since when the campaign has held the nodes of a block (Unix seconds); None: since now."""

    def ending(self) -> str | None:
        """Return why the driver must stop soon (its own wall time), or None."""

    def closing(self) -> frozenset[str]:
        """Return the blocks whose tasks must save and stop."""

    def ends_here(self) -> str | None:
        """Return why no later job will continue the campaign although one should; else None."""

    def suspended(self) -> frozenset[str]:
        """Return the suspended blocks: their tasks are not running, but not lost."""

    def lost(self) -> list[tuple[str, str]]:
        """Return the blocks lost since the last call, each with the reason."""

    def close(self, state: CampaignState, *, goes_on: bool) -> Iterable[Event]:
        """Release the campaign's nodes and jobs; ``goes_on``: a later job continues the campaign."""


def place(fleet: Fleet, size: SizeClass, now: float, avoid: Iterable[str] = (), tasks: int = 1) -> Placement | None:
    """Take and return a free place for a launch of up to ``tasks`` tasks of ``size``, or None."""
    return fleet.pool.place(size, now, LEAST_SECONDS, frozenset(avoid), tasks)


def suspects(state: CampaignState, known: Iterable[str]) -> dict[str, str]:
    """Return nodes not in ``known`` on which several tasks failed by a fault of the machine.

    A pure function of the campaign's history: an innocent node is one of many nodes of a large failed task, but a
    broken node belongs to all failed tasks.
    """
    apart = set(known)
    found = {node: len(tasks) for node, tasks in sorted(state.blamed.items())}
    return {n: f"{k} tasks failed there" for n, k in found.items() if k >= STRIKES and n not in apart}


@dataclass(frozen=True)
class HeldJob:
    """The batch job of a driver, with the facts that the driver needs.

    Parameters
    ----------
    scheduler
        The batch system.
    chain
        The jobs after this one; None: there are none.
    hold_node
        Called with a node that will get no more tasks.
    warned
        Set by the batch system's warning.
    seconds_left
        Rest of the wall time; None: unknown.
    warning_seconds
        Time (s) before the end of the job at which the driver begins to stop.
    poll_seconds
        Seconds between two queries of the nodes' states.
    missing_seconds
        How long every answer must lack a job before it counts as ended.
    excluded
        Bad nodes from earlier jobs, with the reasons.
    began
        Start of the job (Unix seconds); None: unknown.
    """

    scheduler: JobQueue
    chain: Chain | None
    hold_node: Callable[[str], None]
    warned: threading.Event
    seconds_left: float | None
    warning_seconds: float
    poll_seconds: float
    missing_seconds: float
    excluded: Mapping[str, str]
    began: float | None = None


class HeldFleet:
    """Nodes that the driver itself holds: this machine, or the nodes of its batch job.

    Parameters
    ----------
    nodes
        Their names; () on a machine without batch system.
    held
        The batch job of the nodes; None: there is none.
    launches
        Largest number of launches over whole nodes at a time; None: no limit.
    world
        The rest of the environment.
    """

    def __init__(
        self,
        nodes: Sequence[str],
        held: HeldJob | None = None,
        launches: int | None = None,
        world: World = MACHINE_WORLD,
    ) -> None:
        self.pool = NodePool(launches)
        self._nodes, self._held = tuple(nodes), held
        self._clock, self._background = world.clock, world.queries()
        self._patience = Backoff()
        self._not_before = self._next_poll = 0.0
        self._successor_requested = False
        self._endings = JobEndings(0.0 if held is None else held.missing_seconds)
        self._ends_at = float("inf")
        if held is None:
            self.pool.add(HERE, nodes or ("localhost",))
            return
        self.pool.excluded = dict(held.excluded)
        for node in self.pool.excluded.keys() & set(nodes):
            held.hold_node(node)
        if held.seconds_left is not None:
            self._ends_at = self._clock.monotonic() + held.seconds_left
        self.pool.add(HERE, nodes, self._ends_at - held.warning_seconds)

    def tick(self, state: CampaignState, *, work: bool) -> Iterator[Event]:
        """Exclude bad nodes, and submit the next job."""
        held, now = self._held, self._clock.monotonic()
        if held is None:
            return
        for answer in self._background.results():
            yield from self._add_nodes(held, answer, state, now)
        if now < self._not_before:
            return
        if held.chain is not None and work and not self._successor_requested:
            if held.chain.name is None:
                yield from held.chain.intend(state)
            self._successor_requested = True
            if held.chain.name in state.jobs and not state.jobs[held.chain.name].job:
                self._background.submit("successor", held.chain.question())
        if now >= self._next_poll:
            self._next_poll = now + held.poll_seconds
            self._background.submit("bad nodes", lambda: held.scheduler.bad_nodes(self._nodes))
            others = [] if held.chain is None else held.chain.others(state)
            if others:
                self._background.submit("other jobs", lambda: held.scheduler.jobs(others))
        for node, reason in suspects(state, self.pool.excluded).items():
            if node in self._nodes:
                yield self._exclude(held, node, reason)

    def _add_nodes(self, held: HeldJob, answer: QueryResult, state: CampaignState, now: float) -> Iterator[Event]:
        if isinstance(answer.error, SchedulerTrouble):
            self._patience = self._patience.after_trouble(now)
            self._not_before = self._patience.until
            self._successor_requested &= answer.what != "successor"
            if state.scheduler_silent is None:
                yield SchedulerSilent(str(answer.error))
            return
        if isinstance(answer.error, SubmissionRefused) and held.chain is not None:
            # This job continues; after its end, the user has to continue the campaign.
            yield JobEnded(held.chain.name or "", str(answer.error))
            held.chain.name, held.chain.refused = None, str(answer.error)
            return
        if answer.error is not None:
            raise answer.error
        self._patience = self._patience.after_success()
        if state.scheduler_silent is not None:
            yield SchedulerSilent(None)
        if answer.what == "successor":
            if held.chain is not None:
                yield held.chain.submitted(answer.value)
            return
        if answer.what == "other jobs":
            for name, info in answer.value.items():
                known = self._endings.judge(name, info, now)
                if known.state.has_ended:
                    yield JobEnded(name, f"an earlier job of the chain ({known.state})")
            return
        for node, reason in answer.value.items():
            if node not in self.pool.excluded:
                yield self._exclude(held, node, reason)

    def _exclude(self, held: HeldJob, node: str, reason: str) -> NodeExcluded:
        self.pool.exclude(node, reason)
        held.hold_node(node)
        return NodeExcluded(node, reason)

    def held_since(self, block: str) -> float | None:  # noqa: ARG002 - there is one
        """Return the start of the batch job, if known."""
        return None if self._held is None else self._held.began

    def ending(self) -> str | None:
        """Return a sentence when the wall time is nearly over, by the clock or the batch system's signal."""
        if self._held is None:
            return None
        left = self._ends_at - self._clock.monotonic()
        if left <= self._held.warning_seconds or self._held.warned.is_set():
            return "the wall time is nearly over"
        return None

    def closing(self) -> frozenset[str]:
        """Return nothing: the driver itself stops, see `ending`."""
        return frozenset()

    def ends_here(self) -> str | None:
        """Return why this job has no successor."""
        return None if self._held is None or self._held.chain is None else self._held.chain.refused

    def suspended(self) -> frozenset[str]:
        """Return nothing: a driver whose nodes are suspended is suspended with them."""
        return frozenset()

    def lost(self) -> list[tuple[str, str]]:
        """Return nothing: the driver is lost together with its nodes."""
        return []

    def close(self, state: CampaignState, *, goes_on: bool) -> Iterator[Event]:  # noqa: ARG002 - known by name
        """Cancel the successor, unless the campaign ``goes_on`` in it; the end of this job releases the nodes."""
        self._background.close()
        held = self._held
        if held is None or held.chain is None or held.chain.name is None or goes_on:
            return
        if cancelled(held.scheduler, held.chain.name, self._clock):
            yield JobEnded(held.chain.name, "not needed any more")


def cancelled(scheduler: JobQueue, name: str, clock: Clock, patience: float = CANCEL_SECONDS) -> bool:
    """Cancel a job by its name, with repeats for up to ``patience`` seconds; return whether this succeeded."""
    give_up = clock.monotonic() + patience
    while True:
        try:
            scheduler.cancel_by_name(name)
            return True
        except SchedulerTrouble:  # noqa: PERF203 - the loop is the waiting
            if clock.monotonic() > give_up:
                return False
            clock.sleep(2.0)
