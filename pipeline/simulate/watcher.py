"""Receives every event of a simulated campaign: adds the driver's time, and records facts for the result."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from gfm_pipeline.campaign import events as ev
from gfm_pipeline.campaign.events import Event
from gfm_pipeline.campaign.paths import CampaignPaths
from gfm_pipeline.campaign.state import CampaignState
from gfm_pipeline.engine.stages import search
from gfm_pipeline.simulate.clock import SimulatedClock
from gfm_pipeline.simulate.launcher import PlacedTask
from gfm_pipeline.simulate.ledger import Ledger, Use
from gfm_pipeline.simulate.scenario import SimulatedDriverModel

if TYPE_CHECKING:
    from gfm_pipeline.engine.driver import Driver

PROGRESS_SECONDS = 10.0  # of real time, between two lines of progress


class SimulationWatcher:
    """Replaces the display of progress (`gfm_pipeline.engine.driver.Watcher`).

    Parameters
    ----------
    clock, ledger
        Time, and node time.
    model
        Times of the driver's own work.
    paths
        Of the campaign.
    say
        Receives messages for users during the simulation.
    """

    def __init__(
        self,
        clock: SimulatedClock,
        ledger: Ledger,
        model: SimulatedDriverModel,
        paths: CampaignPaths,
        notify: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.placed: dict[str, PlacedTask] = {}
        self.completions = 0
        self.starts = 0
        self.candidates = 0
        self.largest = 0  # nodes of the largest task
        self.best: list[tuple[float, float]] = []  # time (s), and the best objective from then on
        self.driver: Driver | None = None  # the present one
        self.started_before = 0  # tasks that earlier drivers had started
        self._notified = time.monotonic()
        self._clock, self._ledger, self._model, self._paths, self._notify = clock, ledger, model, paths, notify

    def event(self, event: Event, state: CampaignState) -> None:
        """Process a new event."""
        model = self._model
        if isinstance(event, ev.TaskStarted):
            folder = self._paths.stage(state.stages[event.key].stage, event.key).attempt(event.task, event.attempt)
            self.placed[str(folder)] = PlacedTask(event.task, event.attempt, event.nodes)
            self.starts += 1
            self.largest = max(self.largest, len(event.nodes))
            self._charge(model.start_seconds)
        elif isinstance(event, ev.TaskEnded):
            self.completions += 1
            self._note(event)
            self._charge(model.end_seconds)
        elif isinstance(event, ev.WaveProposed):
            self.candidates += len(event.candidates)
        elif isinstance(event, ev.StageDone | ev.StageFailedEvent):
            how = "done" if isinstance(event, ev.StageDone) else "failed"
            self._print(f"{state.stages[event.key].stage} {how}")

    def _charge(self, seconds: float) -> None:
        if not self._model.measured:
            self._clock.sleep(seconds)

    def _print(self, what: str) -> None:
        self._notified = time.monotonic()
        self._notify(f"{self._clock.now / 3600:.2f} h: {what}")

    def tick(self, state: CampaignState) -> None:
        """Tell users from time to time how far the simulation is: some take minutes."""
        if time.monotonic() - self._notified < PROGRESS_SECONDS:
            return
        running = [stage.stage for stage in state.stages.values() if stage.outputs is None and stage.failure is None]
        of = f"{running[-1]}, " if running else ""
        self._print(f"{of}{self.completions:,} tasks ended, {self.candidates:,} candidates (Ctrl-C ends it)")

    def waits(self) -> None:
        """Record why nodes are idle, when the driver has nothing more to do."""
        if self.driver is not None:
            self._ledger.waits(self._reason(self.driver))

    def _reason(self, driver: Driver) -> Use:
        if driver.leaving:
            return Use.JOB_END
        if self.starts == self.started_before:
            return Use.JOB_START
        if driver.waiting:
            if driver.waits_to_launch:
                return Use.LAUNCHES
            return Use.RESTART if driver.waits_to_retry >= driver.waiting else Use.ROOM
        stage = driver.state.stage(search.NAME)
        more = stage is not None and stage.outputs is None and stage.failure is None
        if more and stage is not None and self.candidates < int(stage.settings["candidates"]):
            return Use.NO_PROPOSAL
        return Use.TAIL

    def _note(self, event: ev.TaskEnded) -> None:
        """Record a new best objective."""
        objective = (event.result or {}).get("objective")
        if isinstance(objective, float) and (not self.best or objective < self.best[-1][1]):
            self.best.append((self._clock.now, objective))
