"""Starts tasks: the most urgent first, on their nodes, alone or many in one launch."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gfm_pipeline.campaign.state import CampaignState
from gfm_pipeline.core.clock import Clock
from gfm_pipeline.core.contracts.task import SPEC_FILE
from gfm_pipeline.core.faultpoints import FaultPoint, hand_down, reach
from gfm_pipeline.core.publish import MANIFEST, storage_errors, write_record
from gfm_pipeline.engine.decisions.artefacts import inputs
from gfm_pipeline.engine.decisions.requests import AnyRequest, Context, Program, Step, of_each_size
from gfm_pipeline.engine.resources.node_pool import Placement
from gfm_pipeline.engine.resources.nodes import Fleet, place
from gfm_pipeline.engine.tasks.attempts import AttemptKey, Running, TaskKey, bounds_of, failed_on, next_attempt, spec_of
from gfm_pipeline.engine.tasks.free_places import FreePlaces
from gfm_pipeline.engine.tasks.late_files import visible_seconds
from gfm_pipeline.engine.tasks.shared_launches import SharedLaunch, SharedLaunches, SharedTask
from gfm_pipeline.execution.energy_plan import account_of
from gfm_pipeline.execution.launcher import Launcher, TaskLaunch
from gfm_pipeline.execution.prepare import NewMember, in_job, prepare, prepare_members, prepare_shared
from gfm_pipeline.execution.size_class import SizeClass
from gfm_pipeline.sites.launch import LaunchStrategy
from gfm_pipeline.sites.schema import SiteModel

TOGETHER = 64  # starts that are journalled with one sync
LOOK_AHEAD = 256  # tasks behind one that waits for room, of which some may fit into free places


def sizes_of(context: Context, step: Step) -> set[SizeClass]:
    """Return the sizes of the tasks of ``step``: few sizes, even for many tasks."""
    return {context.size_of(request) for request in of_each_size(step.tasks)}


def module_of(site: SiteModel, program: Program[Any, Any]) -> str:
    """Return the module of a program, or the site's replacement."""
    return site.programs.get(program.name, program.path)


def _files_read(request: AnyRequest) -> list[Path]:
    """Return the files that prove that the inputs of a task exist."""
    return [folder / MANIFEST for folder in inputs(request.spec)]


class Starter:
    """Places tasks, writes their specs, and submits them to the launcher.

    Parameters
    ----------
    context, site
        Settings and machine.
    launcher, fleet
        The launcher of tasks, and the nodes.
    begin
        Called with prepared attempts: journals their start before their submission.
    clock
        Time.
    may_start
        Whether the budget allows a task to start.
    """

    def __init__(
        self,
        context: Context,
        site: SiteModel,
        launcher: Launcher,
        fleet: Fleet,
        begin: Callable[[Sequence[Running]], None],
        clock: Clock,
        may_start: Callable[[AnyRequest], bool] = lambda _: True,
    ) -> None:
        self._may_start = may_start
        self.shared = SharedLaunches()
        self._prepared: list[tuple[Running, TaskLaunch]] = []  # placed, but not yet begun
        self.started = 0  # number of tasks started at the last opportunity
        self.next_launch = 0.0  # monotonic; batch systems need a pause between launches
        self._context, self._site, self._launcher, self._fleet, self._begin = context, site, launcher, fleet, begin
        self._clock = clock
        self._bounds = bounds_of(context.workflow.limits, visible_seconds(context.workflow.limits, site))
        self._account = account_of(context.paths.root)

    def start_some(self, step: Step, state: CampaignState, busy: Container[TaskKey], now: float) -> None:
        """Start the most urgent tasks in their order while there is room: small tasks never starve a large one.

        Parameters
        ----------
        step, state
            The tasks to run, and the present state.
        busy
            Tasks that already run, or wait before their next attempt.
        now
            Monotonic seconds.
        """
        self.started = 0
        self._start_in_order(step, state, busy, now)
        self._flush()

    def _start_in_order(self, step: Step, state: CampaignState, busy: Container[TaskKey], now: float) -> None:
        sizes = sizes_of(self._context, step)
        free = FreePlaces(self.shared, self._fleet.pool, now)
        full: set[SizeClass] = set()
        waiting: dict[SizeClass, list[AnyRequest]] = {}  # for other tasks in the same launch
        blocked: SizeClass | None = None  # of the most urgent task without room: then only free places are filled
        looked = 0
        for request in step.tasks:
            size = self._context.size_of(request)
            late = blocked is not None or now < self.next_launch
            if (full >= sizes or late) and (not free or looked == LOOK_AHEAD):
                break
            looked += late
            if (request.key, request.name) in busy or (size in full and size not in free):
                continue
            if not self._may_start(request):
                break
            if size in free and free.take(request, size, failed_on(state, request)):
                continue
            if late or size in full:
                continue
            if size.strategy is LaunchStrategy.GROUP:
                group = waiting.setdefault(size, [])
                group.append(request)
                if len(group) == size.group and not self._start_shared(waiting.pop(size), size, state):
                    blocked = size
            elif not self._start_one(request, size, state):
                full.add(size)
                blocked = size if size.whole else blocked
        self._fill(free, state)
        for size, group in waiting.items():
            if blocked is None and now >= self.next_launch:
                blocked = None if self._start_shared(group, size, state) else size
        for size in full if blocked is None else {blocked}:
            self.shared.make_room(size, self._fleet.pool.free(self._fleet.pool.blocks()))

    def _fill(self, free: FreePlaces, state: CampaignState) -> None:
        """Start tasks in free places of running launches."""
        for launch, wanted in free.taken():
            opened = {p: self._opened(r, launch.size, launch.placement, state) for p, r in wanted.items()}
            with storage_errors(launch.folder):
                tasks = self._members(launch.folder, launch.size, launch.placement, opened, launch.started, state)
            self.started += len(tasks)
            self._flush()
            self._begin([task.running for task in tasks.values()])
            with storage_errors(launch.folder):
                launch.fill(tasks)

    def _start_one(self, request: AnyRequest, size: SizeClass, state: CampaignState) -> bool:
        """Start a task in its own launch; return whether there was room."""
        placement = self._place(size, failed_on(state, request))
        if placement is None:
            return False
        running = self._opened(request, size, placement, state)
        folder = running.folder
        read = _files_read(request)
        with storage_errors(folder):
            self._make_folder(running, state)
            job = prepare(
                self._site,
                request.stage,
                module_of(self._site, request.program),
                size,
                placement.nodes,
                folder,
                self._bounds,
                read,
                self._account,
            )
        self.started += 1
        self._prepared.append((running, in_job(job, self._site, placement.job)))
        if len(self._prepared) == TOGETHER or (size.whole and self._site.launch.step_delay_seconds):
            self._flush()
        return True

    def _flush(self) -> None:
        """Begin the prepared attempts; one sync makes their starts durable."""
        prepared, self._prepared = self._prepared, []
        if prepared:
            self._begin([running for running, _ in prepared])
            for running, job in prepared:
                self._submit(job, running.key)

    def _start_shared(self, requests: Sequence[AnyRequest], size: SizeClass, state: CampaignState) -> bool:
        """Start as many of these tasks in one launch as fit; return whether any fitted."""
        avoid = {node for request in requests for node in failed_on(state, request)}
        placement = self._place(size, avoid, len(requests))
        if placement is None:
            return False
        opened = dict(enumerate(self._opened(r, size, placement, state) for r in requests[: placement.tasks]))
        first = opened[0]
        stage = self._context.paths.stage(first.request.stage, first.request.key)
        folder = stage.launches / f"{first.request.name}-attempt-{first.attempt}"
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            tasks = self._members(folder, size, placement, opened, 0, state)
            job = prepare_shared(
                self._site, first.request.stage, size, placement.nodes, placement.tasks, folder, self._bounds
            )
            launch = SharedLaunch(folder, size, placement, tasks, job.launch.cancel)
            launch.write()
        self.started += len(tasks)
        self._flush()
        self._begin([task.running for task in tasks.values()])
        self.shared.add(launch)
        self._submit(in_job(job, self._site, placement.job), folder)
        return True

    def _members(
        self,
        folder: Path,
        size: SizeClass,
        placement: Placement,
        opened: Mapping[int, Running],
        number: int,
        state: CampaignState,
    ) -> dict[int, SharedTask]:
        """Prepare attempts for places of the launch in ``folder``; ``number`` is that of the first."""
        wanted = {}
        for where, running in opened.items():
            self._make_folder(running, state)
            read = _files_read(running.request)
            wanted[where] = NewMember(module_of(self._site, running.request.program), running.folder, read)
        prepared = prepare_members(
            self._site,
            size,
            placement.nodes,
            placement.tasks,
            wanted,
            folder,
            self._bounds,
            self._account,
            number,
        )
        return {
            where: SharedTask(
                member, replace(opened[where], placement=replace(placement, nodes=nodes, tasks=1), launch=folder)
            )
            for where, (member, nodes) in prepared.items()
        }

    def _place(self, size: SizeClass, avoid: Iterable[str], tasks: int = 1) -> Placement | None:
        """Take a free place for a launch of up to ``tasks`` tasks; None: no place, or no pool to start them."""
        if not self._launcher.ready(size):
            return None
        return place(self._fleet, size, self._clock.monotonic(), avoid, tasks)

    def _opened(self, request: AnyRequest, size: SizeClass, placement: Placement, state: CampaignState) -> Running:
        attempt = next_attempt(state, request)
        folder = self._context.paths.stage(request.stage, request.key).attempt(request.name, attempt)
        return Running(request, attempt, folder, self._clock.monotonic(), size, placement)

    def _make_folder(self, running: Running, state: CampaignState) -> None:
        """Make an attempt's folder, and write its spec."""
        running.folder.mkdir(parents=True, exist_ok=True)
        reach(FaultPoint.TASK_FOLDER)
        hand_down(running.folder)
        spec = spec_of(self._context, state, self._site, running.request)
        write_record(running.folder / SPEC_FILE, spec, durable=False)  # a crash of the machine leads to another attempt

    def _submit(self, job: TaskLaunch, token: AttemptKey | Path) -> None:
        self._launcher.submit(job, token)
        delay = self._site.launch.step_delay_seconds
        if job.size.whole and delay:  # without a delay, all tasks with room start in this turn
            self.next_launch = self._clock.monotonic() + delay
        reach(FaultPoint.TASK_SUBMITTED)
