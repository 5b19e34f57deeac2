"""The driver: decides, starts tasks, and records events, one at a time."""

from __future__ import annotations

import threading
from collections import ChainMap
from collections.abc import Sequence
from typing import Protocol

from gfm_pipeline.campaign.events import Event, NodesHeld, NodesReleased, StageOpened, to_entry
from gfm_pipeline.campaign.interruption_events import DRIVER, LauncherRestarted, Suspended
from gfm_pipeline.campaign.journal import Journal
from gfm_pipeline.campaign.state import CampaignState
from gfm_pipeline.core.errors import (
    ConfigError,
    IntegrityError,
    SchedulerUnavailable,
    StageFailed,
    Stopped,
    StorageError,
)
from gfm_pipeline.core.visibility import is_there
from gfm_pipeline.engine.budget_guard import BudgetGuard
from gfm_pipeline.engine.decisions.artefacts import lost_artefacts
from gfm_pipeline.engine.decisions.decide import decide
from gfm_pipeline.engine.decisions.requests import Context, Step
from gfm_pipeline.engine.resources.nodes import Fleet
from gfm_pipeline.engine.resources.stage_jobs import hands_over
from gfm_pipeline.engine.tasks.attempt_ends import AttemptEnds
from gfm_pipeline.engine.tasks.attempts import Running, TaskKey
from gfm_pipeline.engine.tasks.running_tasks import RunningTasks
from gfm_pipeline.engine.tasks.taken_over import link_taken
from gfm_pipeline.engine.tasks.task_starter import Starter, sizes_of
from gfm_pipeline.engine.wave_proposer import Proposer
from gfm_pipeline.engine.world import MACHINE_WORLD, World
from gfm_pipeline.execution.launcher import Launcher
from gfm_pipeline.sites.schema import SiteModel

SUSPENDED_SECONDS = 5.0  # shortest suspension that users see
PROPOSAL_SECONDS = 0.1  # pause between checks for finished proposals
RESTARTS = 3  # limit of consecutive restarts of Parsl without an ended task


class Watcher(Protocol):
    """Receives every recorded event and regular ticks; shows progress."""

    def event(self, event: Event, state: CampaignState) -> None:
        """Show an event."""

    def tick(self, state: CampaignState) -> None:
        """Show that the campaign is running."""


class Driver:
    """Runs a campaign to its end under the campaign's lock.

    Parameters
    ----------
    context
        Settings and inputs.
    state
        State folded from the journal.
    journal
        The journal, open.
    launcher
        Starts tasks.
    fleet
        The nodes of the tasks.
    site
        The machine.
    watcher
        Receives the events.
    stop
        Set by a signal handler: finish in order.
    world
        The rest of the environment: time and running attempts.
    """

    def __init__(
        self,
        context: Context,
        state: CampaignState,
        journal: Journal,
        launcher: Launcher,
        fleet: Fleet,
        site: SiteModel,
        watcher: Watcher,
        stop: threading.Event,
        world: World = MACHINE_WORLD,
    ) -> None:
        self.context = context
        self.state = state
        self.journal = journal
        self.launcher = launcher
        self.fleet = fleet
        self.site = site
        self.watcher = watcher
        self.stop = stop
        self._time = world.clock
        self._proposer = Proposer(context, world.proposals())
        self._guard = BudgetGuard(context, state, site, world.clock.time)
        self._starter = Starter(context, site, launcher, fleet, self._begin, world.clock, self._guard.may_start)
        self._ends = AttemptEnds(context, state, site, self.record, world)
        self._tasks = RunningTasks(
            context, state, journal, launcher, fleet, site, self.record, self._ends, self._starter.shared, world
        )
        self._step, self._decided_at = Step(), -1  # version of the state
        self._blocks: tuple[str, ...] = ()  # blocks with recorded nodes
        self._draining = False
        self.cancelled = False  # `cancel` asked the driver to stop
        self.handed_over = False  # the rest of the present stage goes on in a smaller job

    def record(self, event: Event) -> None:
        """Journal an event, fold it into the state, and show it, in this order."""
        kind, data = to_entry(event)
        entry = self.journal.append(kind, data)
        self.state.apply(event, entry.t)
        self.watcher.event(event, self.state)

    def run(self) -> None:
        """Drive the campaign to its end.

        Raises
        ------
        StageFailed
            When a stage cannot continue.
        Stopped
            On a request to stop; everything is saved.
        StorageError
            When the disk refuses; a pause, as after a stop.
        SchedulerUnavailable
            When Parsl cannot be kept running.
        IntegrityError
            When a needed artefact differs from the published one.
        """
        self.context.paths.cancel.unlink(missing_ok=True)  # a request to an earlier driver
        try:
            self._record_nodes()
            self._tasks.end_orphans()
            self._reopen_failed()
            self._drive()
        finally:
            self._proposer.close()

    def _drive(self) -> None:
        """Decide, start tasks and process their ends until the campaign ends."""
        while True:
            try:
                step = self._advance()
            except (IntegrityError, ConfigError, StageFailed):
                self._drain()
                raise
            if step.finished:
                self._drain()
                return
            if step.failure is not None:
                self._drain()
                raise StageFailed(step.failure, "Its log is named in `gfm-pipeline status`.")
            if self._ends.refused is not None:
                self._drain()
                raise StorageError(f"A task could not write: {self._ends.refused}")
            why = self.fleet.ending()
            if self.stop.is_set() or why is not None:
                self._drain()
                what = "Stopped" if why is None else f"Stopped, since {why}"
                raise Stopped(f"{what}; every finished result and checkpoint is kept.")
            if self._hands_over():
                self.handed_over = True
                self._drain()
                return
            if (spent := self._guard.reached()) is not None and self._tasks.running:
                self._guard.refused = spent
                self._tasks.request_stop()
            else:
                self._start_some(step)
            if self._guard.refused is not None and step.tasks and not self._tasks:
                self.record(self._guard.follows(step.tasks[0].stage))
                continue
            if not (step.tasks or self._tasks or self._ends.not_before or self._proposer.is_busy):
                raise RuntimeError("nothing runs and nothing can be started: a defect of the decisions")
            pause = self._starter.next_launch - self._time.monotonic()
            longest = PROPOSAL_SECONDS if self._proposer.is_busy else 1.0
            self._wait(min(longest, pause) if pause > 0.0 else longest)

    def _hands_over(self) -> bool:
        """Return whether the last tasks of the present stage leave most nodes idle, and go on in a smaller job."""
        pool = self.fleet.pool
        held = sum(len(pool.usable(block)) for block in pool.blocks())
        return hands_over(self.context, self.state, self.site, held, self._time.time())

    def _begin(self, opened: Sequence[Running]) -> None:
        self._tasks.begin(opened)

    def _wait(self, seconds: float) -> None:
        """Process events of attempts, launcher and nodes; return when an attempt has ended or time is up."""
        self._tasks.wait(seconds)
        if (paused := self._tasks.clock.stood_still()) > SUSPENDED_SECONDS:
            self.record(Suspended(DRIVER, paused))
        self._tasks.find_lost()
        self._check_launcher()
        self._poll_nodes()
        if is_there(self.context.paths.cancel):
            self.cancelled = True
            self.stop.set()
        self.watcher.tick(self.state)

    @property
    def leaving(self) -> bool:
        """Whether the driver starts no more tasks."""
        return self._draining

    @property
    def waiting(self) -> int:
        """Number of tasks that should run but do not."""
        return max(0, len(self._step.tasks) - self._starter.started)

    @property
    def waits_to_launch(self) -> bool:
        """Whether the batch system needs a pause before the next launch."""
        return self._starter.next_launch > self._time.monotonic()

    @property
    def waits_to_retry(self) -> int:
        """Number of tasks that wait before their next attempt."""
        return len(self._ends.not_before)

    def _advance(self) -> Step:
        """Record decisions and proposals until only tasks remain."""
        while True:
            step = self._decided()
            free = max(1, self._room(step)) + len(self._ends.not_before)
            events = step.events or lost_artefacts(self.context, self.state, step, free)
            if events:
                for event in events:
                    self.record(link_taken(self.context.paths, event) if isinstance(event, StageOpened) else event)
                    if isinstance(event, StageOpened):
                        self._review_budget()
            elif step.proposal is not None and not self.stop.is_set():
                wave = self._proposer.wave(self.state, step.proposal)
                if wave is None:
                    return step
                self.record(wave)
            elif step.ranking is not None and not self.stop.is_set():
                ranked = self._proposer.ranking(self.state, step.ranking)
                if ranked is None:
                    return step
                self.record(ranked)
            else:
                return step

    def _decided(self) -> Step:
        """Return the next step; reuse the last one if there was no event since."""
        if self._decided_at != self.state.version:
            self._step, self._decided_at = decide(self.context, self.state), self.state.version
        return self._step

    def _room(self, step: Step) -> int:
        """Return an upper bound of the tasks of ``step`` that could start now."""
        sizes = sizes_of(self.context, step)
        return max((self.fleet.pool.capacity(size) for size in sizes), default=0) - len(self._tasks.running)

    def _start_some(self, step: Step) -> None:
        """Start tasks while there is room, only on worker pools of the sizes in use."""
        now = self._time.monotonic()
        in_use = {size for size, count in self._tasks.in_use.items() if count}
        self.launcher.serve(sizes_of(self.context, step) | in_use)
        waiting = {task: when for task, when in self._ends.not_before.items() if when > now}
        self._ends.not_before = waiting
        busy: ChainMap[TaskKey, object] = ChainMap(self._tasks.running, waiting)  # type: ignore[arg-type]
        self._starter.start_some(step, self.state, busy, now)

    def _poll_nodes(self) -> None:
        """Process events of nodes and blocks; ask the tasks of an ending block to save and stop."""
        for event in self.fleet.tick(self.state, work=not self._draining):
            self.record(event)
        self._record_nodes()
        if closing := self.fleet.closing():
            self._tasks.request_stop(closing)
        for block, reason in self.fleet.lost():
            self._tasks.lose_block(block, reason)

    def _record_nodes(self) -> None:
        """Record new nodes of the campaign, and released nodes."""
        now = self.fleet.pool.blocks()
        for block in set(self._blocks) - set(now):
            self.record(NodesReleased(block))
        for block in now:
            if block not in self._blocks:
                self.record(NodesHeld(block, self.fleet.pool.size(block), self.fleet.held_since(block)))
        self._blocks = now

    def _review_budget(self) -> None:
        """Record the state of the budget, if there is one."""
        if (found := self._guard.review()) is not None:
            self.record(found)

    def close(self) -> None:
        """Record the total use of the nodes after their last task."""
        self._review_budget()
        self._ends.close()

    def _check_launcher(self) -> None:
        """Restart Parsl if no submitted task would ever run; its own executor would wait forever."""
        stuck = self._tasks.is_stuck()
        trouble = self.launcher.trouble() or ("Parsl never resolved the future of a lost task" if stuck else None)
        if trouble is None:
            return
        self._tasks.lose_all(f"InterchangeLost: {trouble}")
        if self._draining:
            return  # the driver starts no more tasks
        self._ends.restarts += 1
        if self._ends.restarts > RESTARTS:
            raise SchedulerUnavailable(
                f"{trouble}, after {RESTARTS} restarts in a row.", f"Parsl's logs are in {self.context.paths.parsl}."
            )
        self.launcher.restart()
        self.record(LauncherRestarted(trouble))

    def _drain(self) -> None:
        """Ask all running attempts to save and stop, and process their ends and those of their launches."""
        self._draining = True
        self._tasks.request_stop()
        give_up = self._tasks.clock() + self.context.workflow.limits.stop_seconds
        while (self._tasks.running or self._starter.shared) and self._tasks.clock() < give_up:
            self._wait(0.5)
        self._tasks.end_remaining()

    def abandon(self) -> None:
        """Kill all running attempts at once without recording anything: the next driver finds their remains."""
        self._tasks.abandon()
        self._proposer.close()
        self.launcher.kill()

    def _reopen_failed(self) -> None:
        """Reopen a stage that failed in an earlier run: the cause may have been removed."""
        for name, key in list(self.state.current.items()):
            stage = self.state.stages[key]
            if stage.failure is not None:
                self.record(StageOpened(name, key, stage.settings, stage.inputs, stage.slots))
