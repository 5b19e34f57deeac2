"""Running attempts: begins, watches, stops and finishes them, and gives up those with a lost wrapper."""

from __future__ import annotations

import queue
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import replace

from gfm_pipeline.campaign.events import Cause, Event, TaskStarted
from gfm_pipeline.campaign.journal import Journal
from gfm_pipeline.campaign.stage_state import TaskStatus
from gfm_pipeline.campaign.state import CampaignState
from gfm_pipeline.core.clock import LivedTime
from gfm_pipeline.core.contracts.task import STOP_FILE
from gfm_pipeline.core.faultpoints import FaultPoint, reach
from gfm_pipeline.engine.decisions.artefacts import folder_of
from gfm_pipeline.engine.decisions.requests import Context
from gfm_pipeline.engine.resources.nodes import Fleet
from gfm_pipeline.engine.tasks.attempt_ends import AttemptEnds
from gfm_pipeline.engine.tasks.attempts import AttemptKey, Running, TaskKey, can_shrink
from gfm_pipeline.engine.tasks.classify import AttemptEnd, classify
from gfm_pipeline.engine.tasks.late_files import LateEnds, visible_seconds, wait_at_start
from gfm_pipeline.engine.tasks.orphans import end_launches
from gfm_pipeline.engine.tasks.shared_launches import SharedLaunch, SharedLaunches
from gfm_pipeline.engine.tasks.watchdog import Watchdog
from gfm_pipeline.engine.world import World
from gfm_pipeline.execution.launcher import LaunchEnd, Launcher
from gfm_pipeline.execution.size_class import SizeClass
from gfm_pipeline.sites.schema import SiteModel

NO_RECORD = "its wrapper ended without a record; where files of other hosts show late, raise limits.visible_seconds"


class RunningTasks:
    """Follows attempts from their start to their recorded end.

    Parameters
    ----------
    context, state, journal, launcher, fleet, site
        As in `Driver`.
    record
        Journals and folds an event.
    ends
        Records how attempts ended.
    shared
        Launches that several tasks share.
    world
        Time, and access to the processes of attempts.

    Attributes
    ----------
    running
        Attempts by task.
    in_use
        Number of running attempts by size.
    clock
        Seconds in which this process was not suspended. The driver reads it every second; a pause of many seconds means
        that this process was suspended, alone or with its job or machine.
    """

    def __init__(
        self,
        context: Context,
        state: CampaignState,
        journal: Journal,
        launcher: Launcher,
        fleet: Fleet,
        site: SiteModel,
        record: Callable[[Event], None],
        ends: AttemptEnds,
        shared: SharedLaunches,
        world: World,
    ) -> None:
        self._context, self._state, self._journal, self._launcher = context, state, journal, launcher
        self._fleet, self._record, self._ends, self._shared = fleet, record, ends, shared
        self._time, self._attempts = world.clock, world.attempts
        self._limits = context.workflow.limits
        patience = self._limits.wrapper_timeout_seconds
        self.running: dict[TaskKey, Running] = {}
        self.in_use: Counter[SizeClass] = Counter()
        # Given-up attempts with unresolved futures still hold their place: since when, and which place.
        self._given_up: dict[AttemptKey, tuple[float, Running]] = {}
        self._watchdog: Watchdog[TaskKey] = Watchdog(patience)
        self._late = LateEnds(visible_seconds(self._limits, site))
        self.clock = LivedTime(min(5.0, patience / 4), world.clock.monotonic)

    def __bool__(self) -> bool:
        """Whether any attempt runs, or still holds its place after it was given up."""
        return bool(self.running or self._given_up)

    def begin(self, opened: Sequence[Running]) -> None:
        """Journal the start of prepared attempts, and watch them."""
        reach(FaultPoint.TASK_SPEC)
        with self._journal.together():
            for running in opened:
                self._record(TaskStarted(*running.key, running.placement.nodes))
        reach(FaultPoint.TASK_RECORDED)
        for running in opened:
            self.running[running.task] = running
            self.in_use[running.size] += 1
            self._watchdog.watch(running.task, self.clock())

    def _take_end(self, end: LaunchEnd) -> None:
        launch = self._shared.over(end.key)
        if launch is not None:
            self._launch_ended(launch, end.error)
            return
        key, name, attempt = end.key
        running = self.running.get((key, name))
        if running is None or running.attempt != attempt:
            found = self._given_up.pop(end.key, None)  # given up earlier as lost; its place is free only now
            if found is not None:
                self._fleet.pool.release(found[1].size, found[1].placement)
            return
        artefact = folder_of(self._context.paths, self._state.stages[key], name)
        if self._late.holds(end, running, artefact, self.clock()):
            self._watchdog.forget(running.task)
            return
        ended = classify(running.folder, end.error, end.report)
        if end.error is not None:  # no process of it may run during the next attempt
            self._attempts.end(running.folder, wrapper=ended.cause in (Cause.WORKER_LOST, Cause.NODE_FAILURE))
        elif ended.cause is Cause.DRIVER_LOST:
            ended = replace(ended, cause=Cause.TROUBLE, reason=NO_RECORD)
        elif ended.cause is Cause.STOPPED and not (running.folder / STOP_FILE).exists():
            ended = replace(ended, cause=Cause.KILLED, reason=f"{ended.reason}, though not by this driver")
        self._finish_attempt(running, ended)

    def _as_known(self, running: Running, trouble: str | None = None) -> AttemptEnd:
        """Return how an attempt ended, including Parsl's report from before its files were visible."""
        end = self._late.known(running)
        return classify(running.folder, end.error or trouble, end.report)

    def _launch_ended(self, launch: SharedLaunch, error: str | None) -> None:
        """Process the end of a shared launch: its remaining tasks ended with it."""
        self._fleet.pool.release(launch.size, launch.placement)
        if error is not None:
            self._attempts.end(launch.folder)
        for running in [r for r in launch.members.values() if self.running.get(r.task) == r]:
            ended = classify(running.folder, error)
            if ended.cause is Cause.DRIVER_LOST:
                how = classify(launch.folder)
                ended = replace(ended, cause=Cause.TROUBLE, reason=f"the launch it shared ended ({how.reason})")
            self._finish_attempt(running, ended)

    def _finish_attempt(self, running: Running, ended: AttemptEnd) -> None:
        """Record the end of an attempt, and the next action."""
        del self.running[running.task]
        self.in_use[running.size] -= 1
        self._late.forget(running)
        if running.launch is not None:
            self._shared.left(running)
        elif running.key not in self._given_up:
            self._fleet.pool.release(running.size, running.placement)
        self._watchdog.forget(running.task)
        self._ends.record_end(
            *running.key,
            ended,
            shrinkable=can_shrink(self._state, running.request),
            seconds=ended.seconds or self._time.monotonic() - running.started,
            size=running.size,
        )

    def find_lost(self) -> None:
        """Give up attempts whose wrapper has no heartbeat: an unresolved Parsl future must not block the driver."""
        now, suspended = self.clock(), self._fleet.suspended()
        for task in list(self._watchdog.due(now)):
            running = self.running[task]
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

    def end_orphans(self) -> None:
        """Adopt attempts that finished after an earlier driver's death; end and repeat the others."""
        end_launches(self._context.paths)
        wait_at_start(self._context.paths, self._state, self._late.seconds, self._time.time())
        for stage in self._state.stages.values():
            for task in list(stage.tasks.values()):
                if task.status is not TaskStatus.RUNNING:
                    continue
                folder = self._context.paths.stage(stage.stage, stage.key).attempt(task.name, task.attempt)
                self._attempts.end(folder)
                reach(FaultPoint.DRIVER_ORPHAN)
                self._ends.record_end(stage.key, task.name, task.attempt, classify(folder), adopted=True)

    def wait(self, seconds: float) -> None:
        """Process ended attempts; return after at least one, or when time is up."""
        with self._journal.together():
            for key in self._shared.ended(self.clock()):
                self._take_end(LaunchEnd(key, None))
            for end in self._late.again():
                self._take_end(end)
        first = self._time.take(self._launcher.ended, seconds)
        if first is not None:
            # No action follows an end before all ends are durable; a lost end would be adopted later.
            with self._journal.together():
                self._take_end(first)
                with suppress(queue.Empty):
                    while True:
                        self._take_end(self._launcher.ended.get_nowait())

    def request_stop(self, blocks: Collection[str] | None = None) -> None:
        """Ask the attempts on ``blocks`` to save and stop; None: all attempts."""
        self._shared.close(blocks)
        for running in self.running.values():
            if blocks is None or running.placement.block in blocks:
                self._attempts.request_stop(running.folder)

    def lose_block(self, block: str, reason: str) -> None:
        """Finish the attempts on a block that is gone."""
        for running in [r for r in self.running.values() if r.placement.block == block]:
            self._finish_attempt(running, self._as_known(running, f"BlockLost: {reason}"))
        self._given_up = {t: g for t, g in self._given_up.items() if g[1].placement.block != block}
        self._shared.drop(block)

    def is_stuck(self) -> bool:
        """Whether the future of a given-up attempt has been unresolved for very long."""
        now, patience = self.clock(), self._limits.wrapper_timeout_seconds
        return self._shared.stuck(now, patience) or any(now - t > patience for t, _ in self._given_up.values())

    def lose_all(self, reason: str) -> None:
        """End and finish every attempt, since no submitted task will ever run; free all places."""
        for launch in self._shared:
            self._attempts.end(launch.folder)
        for running in list(self.running.values()):
            self._attempts.end(running.folder)
            self._finish_attempt(running, self._as_known(running, reason))
        for size, placement in [*((r.size, r.placement) for _, r in self._given_up.values()), *self._shared.clear()]:
            self._fleet.pool.release(size, placement)
        self._given_up.clear()

    def end_remaining(self) -> None:
        """End and finish attempts that did not stop in time; their last checkpoints remain."""
        for launch in self._shared:
            self._attempts.end(launch.folder)
        for running in list(self.running.values()):
            self._attempts.end(running.folder)
            ended = self._as_known(running)
            if ended.cause is Cause.DRIVER_LOST:
                ended = replace(ended, cause=Cause.STOPPED, reason="did not stop in time; its last checkpoint is kept")
            self._finish_attempt(running, ended)

    def abandon(self) -> None:
        """Kill all running attempts at once without recording anything."""
        for folder in [*(r.folder for r in self.running.values()), *(launch.folder for launch in self._shared)]:
            self._attempts.end(folder)
