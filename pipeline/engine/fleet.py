"""The nodes a campaign runs on: which there are, how long they last, which are bad, and what goes where.

A driver that holds its nodes (this machine, or the batch job it runs in) has one block. A driver elsewhere has blocks
that are batch jobs: see `gfm_pipeline.engine.pilot`.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from gfm_pipeline.campaign.events import Cause, Event, NodeExcluded, SchedulerSilent
from gfm_pipeline.campaign.state import CampaignState
from gfm_pipeline.engine.background import Answer, Background
from gfm_pipeline.engine.nodes import NodePool, Placement
from gfm_pipeline.execution.scheduler import Patience, Scheduler, SchedulerTrouble
from gfm_pipeline.execution.sizes import SizeClass

HERE = "here"  # the block of a driver that holds its nodes
LEAST_SECONDS = 60.0  # of wall time left, for a start to be worth it
STRIKES = 2  # failures of different tasks that put the blame on a node they share
MACHINE_CAUSES = frozenset({Cause.WORKER_LOST, Cause.NODE_FAILURE, Cause.SILENT})


class Fleet(Protocol):
    """Nodes, and what goes where on them."""

    pool: NodePool

    def tick(self, state: CampaignState, *, work: bool) -> Iterable[Event]:
        """Look after the nodes and return what happened to them; ``work`` says whether anything is left to do."""

    def ending(self) -> str | None:
        """Return why the driver has to leave soon (its own wall time), or None."""

    def closing(self) -> frozenset[str]:
        """Return the blocks whose tasks have to save and leave."""

    def lost(self) -> list[tuple[str, str]]:
        """Return blocks that have gone since the last call, each with the reason."""

    def close(self, state: CampaignState) -> Iterable[Event]:
        """Give back every node that is held for the campaign."""


def place(fleet: Fleet, size: SizeClass, avoid: Iterable[str] = ()) -> Placement | None:
    """Return a free place for a task of ``size``, taken from now on, or None."""
    return fleet.pool.place(size, time.monotonic(), LEAST_SECONDS, frozenset(avoid))


def suspects(state: CampaignState, known: Iterable[str]) -> dict[str, str]:
    """Return nodes not in ``known`` on which several tasks failed in a way that is the machine's.

    A pure function of the campaign's history: a node that is merely unlucky is one of many in a large task, one that
    is broken is in all of them.
    """
    counts: Counter[str] = Counter()
    for stage in state.stages.values():
        for task in stage.tasks.values():
            hit = {
                node
                for attempt in task.history
                if attempt.cause in MACHINE_CAUSES
                for node in (attempt.nodes or ((attempt.host,) if attempt.host else ()))
            }
            counts.update(hit)
    apart = set(known)
    return {n: f"{k} tasks failed there" for n, k in sorted(counts.items()) if k >= STRIKES and n not in apart}


class HeldFleet:
    """Nodes the driver holds itself: this machine, or those of the batch job it runs in.

    Parameters
    ----------
    nodes
        Their names; () on a machine without batch system.
    scheduler
        The batch system, or None.
    poll_seconds
        Between two looks at the state of the nodes.
    warning_seconds
        How long before the end of the wall time the driver begins to leave.
    hold_node
        Called with a node that gets no more tasks.
    excluded
        Nodes known to be bad from earlier.
    """

    def __init__(
        self,
        nodes: Sequence[str],
        scheduler: Scheduler | None = None,
        poll_seconds: float = 30.0,
        warning_seconds: float = 300.0,
        hold_node: Callable[[str], None] = lambda node: None,
        excluded: dict[str, str] | None = None,
    ) -> None:
        self.pool = NodePool()
        self.pool.excluded = dict(excluded or {})
        self._scheduler = scheduler
        self._poll_seconds = poll_seconds
        self._warning_seconds = warning_seconds
        self._hold_node = hold_node
        self._nodes = tuple(nodes)
        self._background = Background()
        self._patience = Patience()
        self._next_look = 0.0
        self._ends_at = float("inf")
        if scheduler is not None and (left := scheduler.seconds_left()) is not None:
            self._ends_at = time.monotonic() + left
        self.pool.add(HERE, nodes or ("localhost",), self._ends_at - warning_seconds)

    def tick(self, state: CampaignState, *, work: bool) -> Iterator[Event]:  # noqa: ARG002 - the nodes are held anyway
        """Exclude bad nodes, by the batch system's word and by what happened on them."""
        if self._scheduler is None:
            return
        now = time.monotonic()
        for answer in self._background.answers():
            yield from self._take(answer, state, now)
        if now >= self._next_look:
            self._next_look = now + self._poll_seconds
            self._background.ask("bad nodes", lambda: self._scheduler.bad_nodes(self._nodes))  # type: ignore[union-attr]
        for node, reason in suspects(state, self.pool.excluded).items():
            if node in self._nodes:
                yield self._exclude(node, reason)

    def _take(self, answer: Answer, state: CampaignState, now: float) -> Iterator[Event]:
        if isinstance(answer.error, SchedulerTrouble):
            self._next_look = now + self._patience.failed()
            if state.scheduler_silent is None:
                yield SchedulerSilent(str(answer.error))
            return
        if answer.error is not None:
            raise answer.error
        self._patience.succeeded()
        if state.scheduler_silent is not None:
            yield SchedulerSilent(None)
        for node, reason in answer.value.items():
            if node not in self.pool.excluded:
                yield self._exclude(node, reason)

    def _exclude(self, node: str, reason: str) -> NodeExcluded:
        self.pool.exclude(node, reason)
        self._hold_node(node)
        return NodeExcluded(node, reason)

    def ending(self) -> str | None:
        """Return a sentence when the wall time is nearly over."""
        left = self._ends_at - time.monotonic()
        return None if left > self._warning_seconds else f"the wall time ends in {max(0.0, left):.0f} s"

    def closing(self) -> frozenset[str]:
        """Return nothing: the driver itself leaves, see `ending`."""
        return frozenset()

    def lost(self) -> list[tuple[str, str]]:
        """Return nothing: the driver is lost together with its nodes."""
        return []

    def close(self, state: CampaignState) -> Iterator[Event]:  # noqa: ARG002 - nothing was taken
        """Give back nothing: the nodes go when the driver's job ends."""
        self._background.close()
        return iter(())
