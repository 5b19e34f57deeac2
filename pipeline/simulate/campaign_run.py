"""Simulates a campaign from the first job to the last, with the real driver."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gfm_pipeline.api.allocate import job_prefix
from gfm_pipeline.api.run_request import ResolvedRun, for_next_stage
from gfm_pipeline.batch_systems.base import JobState
from gfm_pipeline.campaign.events import DriverEnded, DriverStarted, JobIntended, JobRole, JobSubmitted, to_entry
from gfm_pipeline.campaign.folder import OpenCampaign, driving
from gfm_pipeline.core.errors import BudgetSpent, GFMError, StageFailed, Stopped
from gfm_pipeline.core.version import __version__
from gfm_pipeline.engine.driver import Driver
from gfm_pipeline.engine.resources.job_chain import Chain, fruitless, job_name
from gfm_pipeline.engine.resources.nodes import Fleet, HeldFleet, HeldJob
from gfm_pipeline.engine.resources.pilot_jobs import PilotFleet, PilotRequest
from gfm_pipeline.engine.resources.requirements import max_launches
from gfm_pipeline.engine.resources.stage_jobs import jobs_of
from gfm_pipeline.engine.world import World
from gfm_pipeline.simulate.attempts import RunningAttempts
from gfm_pipeline.simulate.clock import SimulatedClock, TimeIsOver
from gfm_pipeline.simulate.cluster import HOUR, Cluster
from gfm_pipeline.simulate.job_queue import Job, SimulatedQuestions, SimulatedQueue
from gfm_pipeline.simulate.launcher import SimulatedLauncher
from gfm_pipeline.simulate.learning_curve import LearningCurves
from gfm_pipeline.simulate.ledger import Ledger
from gfm_pipeline.simulate.program_runs import Programs
from gfm_pipeline.simulate.proposals import SimulatedProposals
from gfm_pipeline.simulate.scenario import ScenarioModel
from gfm_pipeline.simulate.training_cost import TrainingCost
from gfm_pipeline.simulate.watcher import SimulationWatcher
from gfm_pipeline.sites.enums import DriverMode

HOST = "simulation"
DONE, HANDED_OVER, FAILED = "done", "its last tasks go on in a smaller job", "failed: "
MOST_JOBS = 1000  # of a campaign, one after the other: nobody submits more of them by hand


class DriverKilled(Exception):
    """The driver's job has ended."""


class SimulatedBlocks:
    """Blocks of a driver that runs elsewhere (`gfm_pipeline.engine.resources.pilot_jobs.BlockMaker`)."""

    def __init__(self, clock: SimulatedClock, jobs: SimulatedQueue, workers_seconds: float) -> None:
        self._clock, self._jobs, self._seconds = clock, jobs, workers_seconds

    def script(self, name: str) -> Path:
        """Return the path of a block's script."""
        return self._jobs.script(name)

    def ready(self, name: str) -> bool:
        """Return whether the workers of a block have started."""
        started = next((job.started for job in self._jobs.all if job.name == name), None)
        return started is not None and self._clock.now >= started + self._seconds

    def end(self, name: str) -> None:
        """Do nothing: the driver places no more tasks in an ending block."""

    def suspended(self, names: Collection[str]) -> None:
        """Do nothing: no block is ever suspended here."""


class Simulation:
    """One campaign in one scenario.

    Parameters
    ----------
    request
        The workflow on its site, resolved for ``root``.
    scenario
        The assumptions.
    notify
        Receives messages about stages.
    start
        Unix time of the first event.
    """

    def __init__(
        self, request: ResolvedRun, scenario: ScenarioModel, notify: Callable[[str], None], start: float
    ) -> None:
        allocation, site, seed = request.resources.allocation, request.site, scenario.seed
        limit = float("inf") if scenario.hours is None else scenario.hours * HOUR
        self.request, self.scenario = request, scenario
        self.part = for_next_stage(request)  # up to the last stage in the present job
        self.clock = SimulatedClock(start, limit)
        self.ledger = Ledger(self.clock.monotonic, allocation.spare / allocation.nodes)
        self.cluster = Cluster(
            self.clock,
            self.ledger,
            max((job.nodes for _, job in jobs_of(request.loaded.model, site)), default=allocation.nodes)
            * allocation.blocks,
            site.node.gpus,
            scenario.failures,
            scenario.stragglers,
            seed,
        )
        self.jobs = SimulatedQueue(self.clock, self.cluster, scenario.batch, self._job_size(), seed)
        self.jobs.on_end = self._job_ended
        self.attempts = RunningAttempts(self.clock, self.cluster, self.ledger, scenario.failures.detect_seconds)
        self.cost = TrainingCost(scenario.cost, bool(site.node.gpus), seed)
        space = request.loaded.model.search.space.compile()
        curves = LearningCurves(scenario.curve, space, seed)
        self.programs = Programs(self.cost, curves, scenario.cost.other_seconds)
        self.watcher = SimulationWatcher(self.clock, self.ledger, scenario.driver, request.context.paths, notify)
        self.clock.before_waiting = self.watcher.waits
        self.clock.measured = time.perf_counter if scenario.driver.measured else None
        self._world = World(
            self.clock,
            self.attempts,
            lambda: SimulatedQuestions(self.clock, scenario.batch, seed),
            counters=False,
            proposals=lambda: SimulatedProposals(self.clock, scenario.driver),
        )
        self._driven: Job | None = None  # the driver's job
        self._launcher: SimulatedLauncher | None = None  # of the running driver

    def run(self) -> str:
        """Run the campaign to its end, or to the end of the simulated time; return how it ended."""
        run = self._in_jobs if self.request.site.driver.mode is DriverMode.RESIDENT else self._outside_of_jobs
        try:
            outcome = run()
            while outcome == HANDED_OVER or (self.part.goes_on and outcome == DONE):
                self.part = for_next_stage(self.request)
                self.jobs.shape = self._job_size()
                outcome = run()
            return outcome
        except TimeIsOver:
            return f"not done after {self.scenario.hours:g} h"
        except GFMError as error:
            return f"{FAILED}{error.message}"
        finally:
            self.clock.before_waiting = None
            self.attempts.end_all()
            self.ledger.close()

    # ---------------------------------------------------------------- where the driver runs

    def _outside_of_jobs(self) -> str:
        """Drive on the machine itself, or from another machine with blocks of nodes."""
        request = self.part
        with self._campaign() as campaign:
            if request.site.scheduler.system is None or request.site.driver.mode is DriverMode.LOCAL:
                self.cluster.hold("here", request.resources.allocation.nodes, lambda: None)
                return self._drive(campaign, HeldFleet((), world=self._world), held=True)
            return self._drive(campaign, self._blocks(campaign), held=False)

    def _in_jobs(self) -> str:
        """Drive in a chain of jobs."""
        outcome = ""
        while not outcome:
            job = self._next_job()
            self.clock.wait_until(lambda job=job: job.started is not None)  # type: ignore[misc]
            self._driven = job
            with self._campaign() as campaign, suppress(DriverKilled, Stopped):
                try:
                    outcome = self._drive(campaign, self._held(campaign, job), held=True)
                except BudgetSpent as error:  # a further job would stop at once
                    raise StageFailed(error.message, error.hint) from error
            self._driven = None
            self.attempts.end_all()
            self.jobs.end(job, JobState.COMPLETED)
        return outcome

    def _next_job(self) -> Job:
        """Return the next job, or let the simulated user submit one; raises `StageFailed` when a user would give up."""
        failed = f"({self.cluster.failed:,} nodes failed)."
        if sum(job.state.has_ended for job in self.jobs.all) >= MOST_JOBS:
            raise StageFailed(f"After {MOST_JOBS:,} jobs the campaign is not done {failed}")
        open_jobs = [job for job in self.jobs.all if not job.state.has_ended]
        if open_jobs:
            return open_jobs[0]
        shape = self._shape()
        with self._campaign() as campaign:
            if (why := fruitless(campaign.state)) is not None:
                raise StageFailed(f"{why[0].upper()}{why[1:]} {failed}")
            name = job_name(job_prefix(campaign), campaign.state)
            self._record(campaign, JobIntended(name, JobRole.DRIVER, *shape))
            number = self.jobs.submit(self.jobs.script(name), name)
            self._record(campaign, JobSubmitted(name, number))
        return self.jobs.all[-1]

    @staticmethod
    def _record(campaign: OpenCampaign, event: JobIntended | JobSubmitted) -> None:
        entry = campaign.journal.append(*to_entry(event))
        campaign.state.apply(event, entry.t)

    def _job_size(self) -> tuple[int, float]:
        """Return nodes and seconds of the present job."""
        job = self.part.resources.allocation
        return job.nodes, float("inf") if job.hours is None else job.hours * HOUR

    def _shape(self) -> tuple[int, float, str]:
        job = self.part.resources.allocation
        return job.nodes, job.hours or 0.0, job.queue or ""

    @contextmanager
    def _campaign(self) -> Iterator[OpenCampaign]:
        name = self.part.loaded.model.name
        with driving(self.part.context.paths.root, name, simulation=self.clock) as campaign:
            yield campaign

    # ---------------------------------------------------------------- its nodes

    def _held(self, campaign: OpenCampaign, job: Job) -> Fleet:
        site, allocation = self.part.site, self.part.resources.allocation
        chain = Chain(
            job_prefix(campaign), job.id, self.jobs.submit, self.jobs.script, self._shape(), site.driver.max_jobs
        )
        queue = site.scheduler.queues.get(allocation.queue or "")
        left = None if allocation.hours is None else job.seconds - (self.clock.now - (job.started or 0.0))
        held = HeldJob(
            self.jobs,
            chain if queue is not None and queue.chaining else None,
            lambda _: None,
            threading.Event(),
            left,
            float(site.driver.warning_seconds),
            site.scheduler.poll_seconds,
            site.scheduler.missing_job_seconds,
            campaign.state.excluded,
        )
        return HeldFleet(job.held, held, max_launches(site, allocation), self._world)

    def _blocks(self, campaign: OpenCampaign) -> Fleet:
        site, allocation = self.part.site, self.part.resources.allocation
        request = PilotRequest(allocation.blocks, *self._shape(), max_launches(site, allocation))
        return PilotFleet(
            request,
            self.jobs,
            SimulatedBlocks(self.clock, self.jobs, self.scenario.cost.workers_seconds),
            job_prefix(campaign),
            site.scheduler.poll_seconds,
            site.scheduler.missing_job_seconds,
            float(site.driver.warning_seconds),
            lambda _: None,
            campaign.state,
            self._world,
        )

    # ---------------------------------------------------------------- one driver

    def _drive(self, campaign: OpenCampaign, fleet: Fleet, *, held: bool) -> str:
        """Drive to the end; return how it ended. Raises `Stopped` when the wall time is over, `DriverKilled` ..."""
        request, site = self.part, self.part.site
        launcher = self._launcher = SimulatedLauncher(
            self.clock,
            self.cluster,
            self.ledger,
            self.attempts,
            self.programs,
            self.scenario.cost,
            self.watcher.placed,
            held=held,
        )
        driver = Driver(
            request.context,
            campaign.state,
            campaign.journal,
            launcher,
            fleet,
            site,
            self.watcher,
            threading.Event(),
            self._world,
        )
        self.watcher.driver, self.watcher.started_before = driver, self.watcher.starts
        driver.record(self._driver_started())
        outcome, goes_on = "died", False
        try:
            driver.run()
            outcome = HANDED_OVER if driver.handed_over else DONE
        except GFMError as error:
            outcome, goes_on = error.message, type(error) is Stopped
            raise
        finally:
            self.watcher.driver = self._launcher = None
            self.attempts.end_all()
            launcher.nodes_lost()
            if outcome != "died":
                for event in fleet.close(campaign.state, goes_on=goes_on):
                    driver.record(event)
                driver.record(DriverEnded(outcome))
        return outcome

    def _driver_started(self) -> DriverStarted:
        request = self.part
        return DriverStarted(
            host=HOST,
            pid=0,
            site=request.site.name,
            version=__version__,
            slots=request.context.slots,
            watts=request.site.slot_watts(),
            workflow=str(request.loaded.path.resolve()),
            resolved={"workflow": request.loaded.model.model_dump(mode="json")},
            job="" if self._driven is None else self._driven.id,
        )

    def _job_ended(self, job: Job) -> None:
        """Process the end of a job: attempts on its nodes are lost, and so is a driver there."""
        self.attempts.end_all(job.held)
        if self._launcher is not None:
            self._launcher.nodes_lost(job.held)
        if job is self._driven:
            self.clock.after(0.0, self._kill_driver)

    def _kill_driver(self) -> None:
        if self._driven is not None:
            raise DriverKilled
