"""Times, objectives and node time in the journal of a finished campaign."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gfm_pipeline.campaign import events as ev
from gfm_pipeline.campaign.journal import read
from gfm_pipeline.campaign.paths import CampaignPaths
from gfm_pipeline.core.contracts.optimisation.settings import OptimiserSettings
from gfm_pipeline.core.contracts.training import ModelSettings, settings_of
from gfm_pipeline.core.contracts.training_result import TrainResult
from gfm_pipeline.core.errors import ConfigError
from gfm_pipeline.core.records import from_plain
from gfm_pipeline.engine.resources.allocation import Impossible
from gfm_pipeline.engine.resources.requirements import Resources, decide_resources
from gfm_pipeline.engine.stages import search
from gfm_pipeline.engine.stages.table import stage_named
from gfm_pipeline.execution.size_class import SizeClass
from gfm_pipeline.sites.schema import SiteModel
from gfm_pipeline.workflow.sections import workflow_model


@dataclass(frozen=True)
class RecordedTraining:
    """A successful training in one attempt: its wall time (s), its graphs, and its number of ranks."""

    seconds: float
    graphs: int
    model: ModelSettings
    optimiser: OptimiserSettings
    ranks: int


@dataclass(frozen=True)
class RecordedObjective:
    """The objective of a candidate with these settings after a number of graphs."""

    candidate: str
    settings: Mapping[str, Any]
    graphs: int
    objective: float | None


@dataclass
class Recorded:
    """Facts from a journal; times in seconds.

    ``handed_over`` are times by which places were taken longer than wrappers ran; ``other`` are times of programs that
    do not train; ``proposals`` are times from the previous event to a wave; ``workers`` and ``pools`` are times from
    the opening of a stage to its first task, which a launch line starts, or workers on all nodes. ``hours`` and
    ``occupancy`` belong to the campaign itself: the time from its first driver to its last event, and the share of its
    nodes' time with attempts.
    """

    trainings: list[RecordedTraining] = field(default_factory=list)
    objectives: list[RecordedObjective] = field(default_factory=list)
    handed_over: list[float] = field(default_factory=list)
    other: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    proposals: list[float] = field(default_factory=list)
    workers: list[float] = field(default_factory=list)
    pools: list[float] = field(default_factory=list)
    hours: float = 0.0
    occupancy: float = 0.0


def recorded(campaign: Path) -> Recorded:
    """Read the journal of a campaign.

    Raises
    ------
    ConfigError
        When the folder contains no real campaign, or one that can no longer be resolved.
    IntegrityError
        When its journal is damaged.
    """
    paths = CampaignPaths(campaign.resolve())
    if not paths.journal.exists():
        raise ConfigError(f"{campaign} holds no campaign.", "Give the folder of one that was run with --from.")
    reader = _JournalReader(_resources(paths))
    for entry in read(paths.journal):
        try:
            event = ev.from_entry(entry.kind, entry.data)
        except ValueError as error:
            raise ConfigError(f"{paths.journal}:{entry.n + 1}: {error}.", "Upgrade gfm-pipeline.") from None
        reader.take(entry.t, event)
    if not reader.found.trainings:
        raise ConfigError(f"{campaign} holds no training that ended well.", "Nothing can be fitted to it.")
    return reader.done()


def _resources(paths: CampaignPaths) -> Resources:
    """Return the campaign's resources on its machine, from the workflow and the site of its last run."""
    try:
        plain = json.loads(paths.resolved.read_text(encoding="utf-8"))
        workflow = workflow_model().model_validate(plain["workflow"])
        found = decide_resources(workflow, SiteModel.model_validate(plain["site"]))
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        first = str(error).splitlines()[0]
        raise ConfigError(
            f"{paths.resolved} does not say on which site the campaign ran ({first}).", "Run or resume it once more."
        ) from None
    if isinstance(found, Impossible):
        raise ConfigError(f"{paths.resolved}: {found.message}", found.hint)
    return found


class _JournalReader:
    """Processes the events of a journal, one by one."""

    def __init__(self, resources: Resources) -> None:
        self.found = Recorded()
        self._resources = resources
        self._stages: dict[str, str] = {}  # key -> name
        self._started: dict[tuple[str, str, int], tuple[float, int]] = {}
        self._settings: dict[str, Mapping[str, Any]] = {}  # of candidates and members
        self._begins: dict[str, tuple[str, int]] = {}  # candidate and rung at which a member starts
        self._graphs: dict[str, int] = {}  # number of graphs after a task
        self._first = self._last = 0.0
        self._opened: tuple[str, float] | None = None  # a stage without a task, and since when
        self._ran: str | None = None  # how the tasks before were started
        self._busy = 0.0  # node seconds
        self._nodes = resources.allocation.nodes * resources.allocation.blocks

    def take(self, when: float, event: ev.Event) -> None:
        """Process one event."""
        if isinstance(event, ev.CampaignCreated) and event.simulated:
            raise ConfigError("The campaign of --from is a simulation.", "Give one that was run.")
        if isinstance(event, ev.DriverStarted):
            self._first, self._ran = self._first or when, None
        elif isinstance(event, ev.StageOpened):
            self._stages[event.key], self._opened = event.stage, (event.key, when)
        elif isinstance(event, ev.WaveProposed):
            self._settings |= {candidate.name: candidate.settings for candidate in event.candidates}
            self.found.proposals.append(when - self._last)
        elif isinstance(event, ev.MembersSelected):
            self._settings |= {member.name: member.settings for member in event.members}
            self._begins |= {member.name: (member.candidate, member.rung) for member in event.members}
        elif isinstance(event, ev.TaskStarted):
            self._first_task(when, event)
            self._started[event.key, event.task, event.attempt] = when, len(event.nodes)
        elif isinstance(event, ev.TaskEnded):
            self._ended(when, event)
        self._last = when

    def _first_task(self, when: float, event: ev.TaskStarted) -> None:
        """Record how long the first task of a stage waited for suitable workers."""
        how = self._size(event.key, event.task).label
        if self._opened is not None and self._opened[0] == event.key and how != self._ran:
            (self.found.pools if event.nodes else self.found.workers).append(when - self._opened[1])
        self._opened, self._ran = None, how

    def _size(self, key: str, task: str) -> SizeClass:
        name = self._stages[key]
        sizes = self._resources.sizes[name]
        rung = int(task.rpartition("-r")[2]) if name == search.NAME else 0
        return sizes[min(rung, len(sizes) - 1)]

    def done(self) -> Recorded:
        """Return the recorded facts."""
        found = self.found
        found.hours = (self._last - self._first) / 3600.0
        found.occupancy = self._busy / max(1e-9, (self._last - self._first) * self._nodes)
        return found

    def _ended(self, when: float, event: ev.TaskEnded) -> None:
        since, nodes = self._started.pop((event.key, event.task, event.attempt), (when, 0))
        name = self._stages[event.key]
        declared = stage_named(name)
        if declared is None:
            return
        rung = int(event.task.rpartition("-r")[2]) if name == search.NAME else 0
        size = self._size(event.key, event.task)
        self._busy += (when - since) * (nodes or 1.0 / size.per_node)
        if event.result is None or event.adopted or event.attempt != 1:
            return
        self.found.handed_over.append(max(0.0, when - since - event.seconds))
        program = declared.program_of(event.task)
        if program.result is not TrainResult:
            self.found.other[program.name].append(event.seconds)
            return
        result = from_plain(TrainResult, event.result)
        candidate, begin = self._candidate(name, event.task, rung)
        settings = self._settings[event.task if name != search.NAME else candidate]
        self._graphs[event.task] = result.graphs
        if name == search.NAME:
            objective = RecordedObjective(candidate, settings, result.graphs, result.objective)
            self.found.objectives.append(objective)
        if result.objective is not None:
            trained = result.graphs - begin
            self.found.trainings.append(
                RecordedTraining(event.seconds, trained, *settings_of(settings), size.shape.ranks)
            )

    def _candidate(self, stage: str, task: str, rung: int) -> tuple[str, int]:
        """Return the candidate of a training, and its model's earlier number of graphs."""
        if stage == search.NAME:
            candidate = task.rpartition("-r")[0]
            return candidate, self._graphs.get(f"{candidate}-r{rung - 1}", 0) if rung else 0
        candidate, rung = self._begins[task]
        return candidate, self._graphs.get(f"{candidate}-r{rung}", 0)
