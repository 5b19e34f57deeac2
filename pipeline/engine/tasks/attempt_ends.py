"""Ends of attempts with their consequence: acceptance, another attempt, a pause, or failure."""

from __future__ import annotations

from collections.abc import Callable

from gfm_pipeline.campaign.events import Action, Event, TaskEnded
from gfm_pipeline.campaign.state import CampaignState
from gfm_pipeline.core.faultpoints import FaultPoint, reach
from gfm_pipeline.engine.decisions.requests import Context
from gfm_pipeline.engine.tasks.attempts import TaskKey
from gfm_pipeline.engine.tasks.classify import AttemptEnd
from gfm_pipeline.engine.tasks.energy_book import EnergyBook, held
from gfm_pipeline.engine.tasks.retries import delay, next_action
from gfm_pipeline.engine.world import World
from gfm_pipeline.execution.size_class import SizeClass
from gfm_pipeline.sites.schema import SiteModel


class AttemptEnds:
    """Records the ends of attempts.

    Parameters
    ----------
    context, state, site
        Of the campaign.
    record
        Journals and folds an event.
    world
        The clock, and the counters of this node.

    Attributes
    ----------
    not_before
        Tasks that wait before their next attempt, and the end of the wait.
    refused
        Why the disk refused a task; None: no refusal.
    restarts
        Restarts of the launcher since the last task that ended well.
    """

    def __init__(
        self, context: Context, state: CampaignState, site: SiteModel, record: Callable[[Event], None], world: World
    ) -> None:
        self._context, self._state, self._record, self._time = context, state, record, world.clock
        self._energy = EnergyBook(site, context.paths.root, own_node=world.counters)
        self.not_before: dict[TaskKey, float] = {}
        self.refused: str | None = None
        self.restarts = 0

    def record_end(
        self,
        key: str,
        name: str,
        attempt: int,
        ended: AttemptEnd,
        *,
        seconds: float | None = None,
        shrinkable: bool = True,
        adopted: bool = False,
        size: SizeClass | None = None,
    ) -> None:
        """Record the end of an attempt, and the next action."""
        reach(FaultPoint.TASK_CLASSIFIED)
        task = self._state.stages[key].tasks[name]
        action = next_action(ended.cause, task.counted, ended.saved, can_shrink=shrinkable)
        took = ended.seconds if seconds is None else seconds
        used = self._energy.used(held(size, task.nodes, self._context.slots, took), took, ended.energy)
        self._record(
            TaskEnded(
                key,
                name,
                attempt,
                ended.outcome,
                took,
                ended.reason,
                ended.result,
                adopted=adopted,
                cause=ended.cause,
                action=action,
                saved=ended.saved,
                host=ended.host,
                node_seconds=used.node_seconds,
                energy=used.energy,
                idle=used.idle,
            )
        )
        if action is Action.ACCEPT:
            self.restarts = 0
        elif action is Action.PAUSE:
            self.refused = ended.reason
        elif action is Action.RETRY:
            self.not_before[key, name] = self._time.monotonic() + delay(task.counted)

    def close(self) -> None:
        """Record the total use of the nodes after their last task."""
        measured = self._energy.close()
        if measured is not None:
            self._record(measured)
