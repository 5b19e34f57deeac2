"""Decide, do, record: carries out what `decide` asks for, one event at a time."""

from __future__ import annotations

import queue
import threading
from collections import ChainMap, Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Protocol

from gfm_pipeline.campaign.events import (
    DRIVER,
    Action,
    Cause,
    Event,
    LauncherRestarted,
    NodesHeld,
    NodesReleased,
    StageOpened,
    Suspended,
    TaskEnded,
    TaskStarted,
    to_entry,
)
from gfm_pipeline.campaign.journal import Journal
from gfm_pipeline.campaign.stage_state import TaskStatus
from gfm_pipeline.campaign.state import CampaignState
from gfm_pipeline.core.clock import LivedTime
from gfm_pipeline.core.contracts.task import STOP_FILE
from gfm_pipeline.core.errors import (
    ConfigError,
    IntegrityError,
    SchedulerUnavailable,
    StageFailed,
    Stopped,
    StorageError,
)
from gfm_pipeline.core.faultpoints import FaultPoint, reach
from gfm_pipeline.core.visibility import is_there
from gfm_pipeline.engine.budget_guard import BudgetGuard
from gfm_pipeline.engine.decisions.artefacts import folder_of, lost_artefacts
from gfm_pipeline.engine.decisions.decide import decide
from gfm_pipeline.engine.decisions.requests import Context, Step
from gfm_pipeline.engine.proposing import Proposer
from gfm_pipeline.engine.resources.nodes import Fleet
from gfm_pipeline.engine.tasks.attempts import AttemptKey, Running, TaskKey, can_shrink
from gfm_pipeline.engine.tasks.classify import AttemptEnd, classify
from gfm_pipeline.engine.tasks.energy_book import EnergyBook, held
from gfm_pipeline.engine.tasks.late_files import LateEnds, visible_seconds, wait_at_start
from gfm_pipeline.engine.tasks.orphans import end_launches
from gfm_pipeline.engine.tasks.retries import delay, next_action
from gfm_pipeline.engine.tasks.shared_launches import SharedLaunch
from gfm_pipeline.engine.tasks.taken_over import link_taken
from gfm_pipeline.engine.tasks.task_starter import Starter, sizes_of
from gfm_pipeline.engine.tasks.watchdog import Watchdog
from gfm_pipeline.engine.world import MACHINE_WORLD, World
from gfm_pipeline.execution.launcher import LaunchEnd, Launcher
from gfm_pipeline.execution.size_class import SizeClass
from gfm_pipeline.sites.schema import SiteModel

NO_RECORD = "its wrapper ended without a record; where files of other hosts show late, raise limits.visible_seconds"
SUSPENDED_SECONDS = 5.0  # of standing still, from which on people are told
PROPOSAL_SECONDS = 0.1  # between looks whether a wave is proposed
RESTARTS = 3  # of Parsl in a row, without a task that ended in between


class Watcher(Protocol):
    """Hears every event after it was recorded, and a tick now and then; shows progress."""

    def event(self, event: Event, state: CampaignState) -> None:
        """Show an event."""

    def tick(self, state: CampaignState) -> None:
        """Show that the campaign lives."""


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
        The nodes they run on.
    site
        The machine.
    watcher
        Who is told.
    stop
        Set from a signal handler: finish politely.
    world
        What else is outside: time, and what runs.
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
        self._time, self._attempts = world.clock, world.attempts
        self._proposer = Proposer(context, world.proposals())
        self._limits = context.workflow.limits
        self._running: dict[TaskKey, Running] = {}
        self._in_use: Counter[SizeClass] = Counter()  # tasks that run
        self._guard = BudgetGuard(context, state, site, world.clock.time)
        self._starter = Starter(context, site, launcher, fleet, self._begin, world.clock, self._guard.may_start)
        self._shared = self._starter.shared
        # Attempts whose futures may yet resolve: they still hold their place. Since when, and what place.
        self._given_up: dict[AttemptKey, tuple[float, Running]] = {}
        self._not_before: dict[TaskKey, float] = {}  # tasks that wait before they are tried again
        self._watchdog: Watchdog[TaskKey] = Watchdog(self._limits.wrapper_timeout_seconds)
        self._late = LateEnds(visible_seconds(self._limits, site))
        # Looked at every second; a pause of many is one of this process, with its job or its machine.
        self._clock = LivedTime(min(5.0, self._limits.wrapper_timeout_seconds / 4), world.clock.monotonic)
        self._restarts = 0
        self._step, self._decided_at = Step(), -1  # version of the state
        self._energy = EnergyBook(site, context.paths.root, own_node=world.counters)
        self._blocks: tuple[str, ...] = ()  # whose nodes are held, as far as it is recorded
        self._draining = False
        self.cancelled = False  # asked to stop by `cancel`
        self._refused: str | None = None  # why the disk refused a task

    def record(self, event: Event) -> None:
        """Journal an event, fold it, show it; in this order."""
        kind, data = to_entry(event)
        entry = self.journal.append(kind, data)
        self.state.apply(event, entry.t)
        self.watcher.event(event, self.state)

    def run(self) -> None:
        """Drive the campaign to its end.

        Raises
        ------
        StageFailed
            When a stage cannot go on.
        Stopped
            When asked to stop; everything is saved.
        StorageError
            When the disk refuses; a pause, like a stop.
        SchedulerUnavailable
            When Parsl cannot be kept running.
        IntegrityError
            When an artefact that is needed is not what was published.
        """
        self.context.paths.cancel.unlink(missing_ok=True)  # meant for an earlier driver
        try:
            self._record_nodes()
            self._end_orphans()
            self._reopen_failed()
            self._drive()
        finally:
            self._proposer.close()

    def _drive(self) -> None:
        """Decide, start and take in until the campaign ends."""
        while True:
            try:
                step = self._advance()
            except (IntegrityError, ConfigError, StageFailed):
                self._drain()
                raise
            if step.finished:
                return
            if step.failure is not None:
                self._drain()
                raise StageFailed(step.failure, "Its log is named in `gfm-pipeline status`.")
            if self._refused is not None:
                self._drain()
                raise StorageError(f"A task could not write: {self._refused}")
            why = self.fleet.ending()
            if self.stop.is_set() or why is not None:
                self._drain()
                what = "Stopped" if why is None else f"Stopped, since {why}"
                raise Stopped(f"{what}; every finished result and checkpoint is kept.")
            if (spent := self._guard.reached()) is not None and self._running:
                self._guard.refused = spent
                for running in self._running.values():
                    self._attempts.request_stop(running.folder)
            else:
                self._start_some(step)
            if self._guard.refused is not None and step.tasks and not (self._running or self._given_up):
                self.record(self._guard.follows(step.tasks[0].stage))
                continue
            if not (step.tasks or self._running or self._given_up or self._not_before or self._proposer.is_busy):
                raise RuntimeError("nothing runs and nothing can be started: a defect of the decisions")
            pause = self._starter.next_launch - self._time.monotonic()
            longest = PROPOSAL_SECONDS if self._proposer.is_busy else 1.0
            self._wait(min(longest, pause) if pause > 0.0 else longest)

    @property
    def leaving(self) -> bool:
        """Whether it starts nothing more."""
        return self._draining

    @property
    def waiting(self) -> int:
        """Tasks that should run and do not."""
        return max(0, len(self._step.tasks) - self._starter.started)

    @property
    def waits_to_launch(self) -> bool:
        """Whether the batch system wants a pause before the next launch."""
        return self._starter.next_launch > self._time.monotonic()

    @property
    def waits_to_retry(self) -> int:
        """Tasks that wait for a while before they are tried again."""
        return len(self._not_before)

    def _advance(self) -> Step:
        """Record decisions and proposals until only tasks are left to do."""
        while True:
            step = self._decided()
            free = max(1, self._room(step)) + len(self._not_before)
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
            else:
                return step

    def _decided(self) -> Step:
        """Return the next step: the same as before while nothing was recorded."""
        if self._decided_at != self.state.version:
            self._step, self._decided_at = decide(self.context, self.state), self.state.version
        return self._step

    def _room(self, step: Step) -> int:
        """Return an upper bound of the tasks of ``step`` that could start now."""
        sizes = sizes_of(self.context, step)
        return max((self.fleet.pool.capacity(size) for size in sizes), default=0) - len(self._running)

    def _start_some(self, step: Step) -> None:
        """Start what there is room for, on worker pools of no other sizes than those in use."""
        now = self._time.monotonic()
        in_use = {size for size, count in self._in_use.items() if count}
        self.launcher.serve(sizes_of(self.context, step) | in_use)
        self._not_before = {task: when for task, when in self._not_before.items() if when > now}
        busy: ChainMap[TaskKey, object] = ChainMap(self._running, self._not_before)  # type: ignore[arg-type]
        self._starter.start_some(step, self.state, busy, now)

    def _begin(self, opened: Sequence[Running]) -> None:
        """Journal the start of attempts that are ready, and watch them."""
        reach(FaultPoint.TASK_SPEC)
        with self.journal.together():
            for running in opened:
                self.record(TaskStarted(*running.key, running.placement.nodes))
        reach(FaultPoint.TASK_RECORDED)
        for running in opened:
            self._running[running.task] = running
            self._in_use[running.size] += 1
            self._watchdog.watch(running.task, self._clock())

    def _wait(self, seconds: float) -> None:
        """Take in ended attempts; return when at least one came or time is up."""
        with self.journal.together():
            for token in self._shared.ended(self._clock()):
                self._ended(LaunchEnd(token, None))
            for end in self._late.again():
                self._ended(end)
        first = self._time.take(self.launcher.ended, seconds)
        if first is not None:
            # Nothing is done upon an end before all of them are durable; one that was lost would be adopted.
            with self.journal.together():
                self._ended(first)
                with suppress(queue.Empty):
                    while True:
                        self._ended(self.launcher.ended.get_nowait())
        if (paused := self._clock.stood_still()) > SUSPENDED_SECONDS:
            self.record(Suspended(DRIVER, paused))
        self._find_lost()
        self._check_launcher()
        self._poll_nodes()
        if is_there(self.context.paths.cancel):
            self.cancelled = True
            self.stop.set()
        self.watcher.tick(self.state)

    def _ended(self, end: LaunchEnd) -> None:
        launch = self._shared.over(end.key)
        if launch is not None:
            self._launch_ended(launch, end.error)
            return
        key, name, attempt = end.key
        running = self._running.get((key, name))
        if running is None or running.attempt != attempt:
            found = self._given_up.pop(end.key, None)  # given up as lost earlier; only now is its place free
            if found is not None:
                self.fleet.pool.release(found[1].size, found[1].placement)
            return
        artefact = folder_of(self.context.paths, self.state.stages[key], name)
        if self._late.holds(end, running, artefact, self._clock()):
            self._watchdog.forget(running.task)
            return
        ended = classify(running.folder, end.error, end.report)
        if end.error is not None:  # nothing of it may run on beside the next attempt
            self._attempts.end(running.folder, wrapper=ended.cause in (Cause.WORKER_LOST, Cause.NODE_FAILURE))
        elif ended.cause is Cause.DRIVER_LOST:
            ended = replace(ended, cause=Cause.TROUBLE, reason=NO_RECORD)
        elif ended.cause is Cause.STOPPED and not (running.folder / STOP_FILE).exists():
            ended = replace(ended, cause=Cause.KILLED, reason=f"{ended.reason}, though not by this driver")
        self._finish_attempt(running, ended)

    def _as_known(self, running: Running, trouble: str | None = None) -> AttemptEnd:
        """Return how an attempt ended, by what Parsl may have said of it before its files could be seen."""
        end = self._late.known(running)
        return classify(running.folder, end.error or trouble, end.report)

    def _launch_ended(self, launch: SharedLaunch, error: str | None) -> None:
        """Take in the end of a launch that tasks shared: those that have not ended by themselves ended with it."""
        self.fleet.pool.release(launch.size, launch.placement)
        if error is not None:
            self._attempts.end(launch.folder)
        for running in [r for r in launch.members.values() if self._running.get(r.task) == r]:
            ended = classify(running.folder, error)
            if ended.cause is Cause.DRIVER_LOST:
                how = classify(launch.folder)
                ended = replace(ended, cause=Cause.TROUBLE, reason=f"the launch it shared ended ({how.reason})")
            self._finish_attempt(running, ended)

    def _finish_attempt(self, running: Running, ended: AttemptEnd) -> None:
        """Record how an attempt ended and what follows."""
        del self._running[running.task]
        self._in_use[running.size] -= 1
        self._late.forget(running)
        if running.launch is not None:
            self._shared.left(running)
        elif running.key not in self._given_up:
            self.fleet.pool.release(running.size, running.placement)
        self._watchdog.forget(running.task)
        self._record_end(
            *running.key,
            ended,
            shrinkable=can_shrink(self.state, running.request),
            seconds=ended.seconds or self._time.monotonic() - running.started,
            size=running.size,
        )

    def _find_lost(self) -> None:
        """Give up attempts whose wrapper shows no life: a Parsl future that never resolves must not hang us."""
        now, suspended = self._clock(), self.fleet.suspended()
        for task in list(self._watchdog.due(now)):
            running = self._running[task]
            if running.placement.block in suspended:
                self._watchdog.saw_heartbeat(task, now)
                continue
            if self._watchdog.silent(task, self._attempts.heartbeat(running.folder), now):
                self._attempts.end(running.folder)
                ended = classify(
                    running.folder, f"ManagerLost: no sign of life for {self._limits.wrapper_timeout_seconds:.0f} s"
                )
                if running.launch is None:
                    self._given_up[running.key] = now, running
                self._finish_attempt(running, ended)

    def _poll_nodes(self) -> None:
        """Take in what happened to nodes and blocks; ask the tasks of a block that ends to save and leave."""
        for event in self.fleet.tick(self.state, work=not self._draining):
            self.record(event)
        self._record_nodes()
        closing = self.fleet.closing()
        for running in self._running.values() if closing else ():
            if running.placement.block in closing:
                self._attempts.request_stop(running.folder)
        for block, reason in self.fleet.lost():
            for running in [r for r in self._running.values() if r.placement.block == block]:
                self._finish_attempt(running, self._as_known(running, f"BlockLost: {reason}"))
            self._given_up = {t: g for t, g in self._given_up.items() if g[1].placement.block != block}
            self._shared.drop(block)

    def _record_nodes(self) -> None:
        """Record which nodes have become the campaign's, and which are not any more."""
        now = self.fleet.pool.blocks()
        for block in set(self._blocks) - set(now):
            self.record(NodesReleased(block))
        for block in now:
            if block not in self._blocks:
                self.record(NodesHeld(block, self.fleet.pool.size(block), self.fleet.held_since(block)))
        self._blocks = now

    def _review_budget(self) -> None:
        """Record how the budget stands, where there is one."""
        if (found := self._guard.review()) is not None:
            self.record(found)

    def close(self) -> None:
        """Record what the nodes used in all, when nothing runs on them any more."""
        self._review_budget()
        measured = self._energy.close()
        if measured is not None:
            self.record(measured)

    def _check_launcher(self) -> None:
        """Restart Parsl when nothing submitted would ever run; its own executor waits for ever then."""
        now, patience = self._clock(), self._limits.wrapper_timeout_seconds
        stuck = self._shared.stuck(now, patience) or any(now - t > patience for t, _ in self._given_up.values())
        trouble = self.launcher.trouble() or ("Parsl never resolved the future of a lost task" if stuck else None)
        if trouble is None:
            return
        for launch in self._shared:
            self._attempts.end(launch.folder)
        for running in list(self._running.values()):
            self._attempts.end(running.folder)
            self._finish_attempt(running, self._as_known(running, f"InterchangeLost: {trouble}"))
        for size, placement in [*((r.size, r.placement) for _, r in self._given_up.values()), *self._shared.clear()]:
            self.fleet.pool.release(size, placement)
        self._given_up.clear()
        if self._draining:
            return  # nothing will be started any more
        self._restarts += 1
        if self._restarts > RESTARTS:
            raise SchedulerUnavailable(
                f"{trouble}, after {RESTARTS} restarts in a row.", f"Parsl's logs are in {self.context.paths.parsl}."
            )
        self.launcher.restart()
        self.record(LauncherRestarted(trouble))

    def _drain(self) -> None:
        """Ask everything that runs to save and leave, and take in how it ended."""
        self._draining = True
        for running in self._running.values():
            self._attempts.request_stop(running.folder)
        give_up = self._clock() + self._limits.stop_seconds
        while self._running and self._clock() < give_up:
            self._wait(0.5)
        for launch in self._shared if self._running else ():
            self._attempts.end(launch.folder)
        for running in list(self._running.values()):
            self._attempts.end(running.folder)
            ended = self._as_known(running)
            if ended.cause is Cause.DRIVER_LOST:
                ended = replace(ended, cause=Cause.STOPPED, reason="did not stop in time; its last checkpoint is kept")
            self._finish_attempt(running, ended)

    def abandon(self) -> None:
        """End everything that runs at once, recording nothing: the next driver finds what was left."""
        for folder in [*(r.folder for r in self._running.values()), *(launch.folder for launch in self._shared)]:
            self._attempts.end(folder)
        self._proposer.close()
        self.launcher.kill()

    def _end_orphans(self) -> None:
        """Adopt what finished after an earlier driver died; end the rest, and give it a new attempt."""
        end_launches(self.context.paths)
        wait_at_start(self.context.paths, self.state, self._late.seconds, self._time.time())
        for stage in self.state.stages.values():
            for task in list(stage.tasks.values()):
                if task.status is not TaskStatus.RUNNING:
                    continue
                folder = self.context.paths.stage(stage.stage, stage.key).attempt(task.name, task.attempt)
                self._attempts.end(folder)
                reach(FaultPoint.DRIVER_ORPHAN)
                self._record_end(stage.key, task.name, task.attempt, classify(folder), adopted=True)

    def _record_end(
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
        reach(FaultPoint.TASK_CLASSIFIED)
        task = self.state.stages[key].tasks[name]
        action = next_action(ended.cause, task.counted, ended.saved, can_shrink=shrinkable)
        took = ended.seconds if seconds is None else seconds
        used = self._energy.used(held(size, task.nodes, self.context.slots, took), took, ended.energy)
        self.record(
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
            self._restarts = 0
        elif action is Action.PAUSE:
            self._refused = ended.reason
        elif action is Action.RETRY:
            self._not_before[key, name] = self._time.monotonic() + delay(task.counted)

    def _reopen_failed(self) -> None:
        """Give a stage that failed in an earlier run another chance: the cause may be mended."""
        for name, key in list(self.state.current.items()):
            stage = self.state.stages[key]
            if stage.failure is not None:
                self.record(StageOpened(name, key, stage.settings, stage.inputs, stage.slots))
