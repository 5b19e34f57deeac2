"""Search: trains each candidate from rung to rung as long as it is among the best.

An asynchronous search proposes candidates when slots become free, and decides promotions when all candidates of one
proposal have finished. Otherwise it proposes waves one ahead: wave w uses the first-rung results of waves up to w - 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gfm_pipeline.campaign.events import (
    Candidate,
    Cause,
    Event,
    StageCurtailed,
    StageFailedEvent,
    StageOpened,
    TakenOver,
)
from gfm_pipeline.campaign.paths import StagePaths
from gfm_pipeline.campaign.stage_state import StageState, TaskStatus
from gfm_pipeline.campaign.state import CampaignState
from gfm_pipeline.core.contracts.optimisation.fine_tuning import WeightsOrigin
from gfm_pipeline.core.contracts.training import TrainSpec, settings_of
from gfm_pipeline.core.records import to_plain
from gfm_pipeline.engine.decisions.requests import (
    AnyRequest,
    Context,
    Program,
    Proposal,
    Step,
    TaskRequest,
    first_failure,
    stage_paths,
)
from gfm_pipeline.engine.resources.demand import Demand, TrainingDemand
from gfm_pipeline.engine.stages import ingest
from gfm_pipeline.engine.stages.agenda import Agenda
from gfm_pipeline.engine.stages.base import Done, Records, Stage, Work
from gfm_pipeline.engine.stages.ingest import dataset_refs
from gfm_pipeline.engine.stages.promotions import rung_decision
from gfm_pipeline.engine.stages.search_members import _finalists, _selection, chosen_policies, closing, selection_of
from gfm_pipeline.engine.stages.search_size import (
    rung_counts,
    trials,
    wanted_now,
    wave_size,
    wave_sizes,
    wave_target,
)
from gfm_pipeline.engine.stages.trials import (
    TRAIN,
    candidate_seed,
    describe_training,
    ended_tasks,
    learned,
    node_list,
    stopped_early,
    task_name,
)
from gfm_pipeline.engine.stages.waiting_trainings import WaitingTrainings, expected_seconds
from gfm_pipeline.search.selection import ErrorSelection

if TYPE_CHECKING:
    from gfm_pipeline.workflow.schema import WorkflowModel

NAME = "search"
LAG = 1  # number of waves proposed ahead of their results
POLICIES = ("stopping", "proposals")


def _agenda(context: Context, stage: StageState) -> Agenda:
    """Return the updated agenda of a search."""
    agenda = context.agendas.get(stage.key)
    if agenda is None or agenda.stage is not stage:
        agenda = context.agendas[stage.key] = Agenda(stage)
    agenda.update()
    return agenda


def _due(stage: StageState, agenda: Agenda, rungs: int) -> tuple[int, int] | None:
    """Return wave and rung of the first promotion decision with all results, including those of earlier waves."""
    for rung in range(rungs - 1):
        for wave in range(len(stage.waves)):
            if rung and (wave, rung - 1) not in stage.decisions:
                break
            if agenda.unfinished(wave, rung):
                break
            if (wave, rung) not in stage.decisions:
                return wave, rung
    return None


def _decisions(context: Context, stage: StageState, agenda: Agenda) -> tuple[Event, ...]:
    """Return the first promotion decision with all results."""
    search = context.workflow.search
    last = len(search.rungs) - 1
    due = agenda.first_complete(last) if search.asynchronous else _due(stage, agenda, last + 1)
    return () if due is None else (rung_decision(search, stage, *due),)


def _size_now(context: Context, stage: StageState, agenda: Agenda, sizes: Sequence[int]) -> int:
    """Return the number of candidates to propose now; ``sizes``: of the remaining waves."""
    search = context.workflow.search
    if search.asynchronous:
        at_a_time = wave_size(search.wave, context.slots)
        return wanted_now(sum(sizes), at_a_time, agenda.left)
    if not sizes or any(agenda.unfinished(wave, 0) for wave in range(len(stage.waves) - LAG)):
        return 0
    return sizes[0]


def _train(context: Context, stage: StageState, datasets: StageState, candidate: Candidate, rung: int) -> AnyRequest:
    name = task_name(candidate.name, rung)
    known = context.made.get((datasets.key, stage.key, name))
    if known is not None and name not in stage.starts:
        return known
    search, paths = context.workflow.search, stage_paths(context, stage)
    model, optimiser = settings_of(candidate.settings)
    spec = TrainSpec(
        task=name,
        model=model,
        optimiser=optimiser,
        datasets=dataset_refs(context, datasets),
        seed=candidate_seed(context, candidate.name),
        output=str(paths.checkpoint(name)),
        budget_graphs=search.rungs[rung],
        checkpoint=_start(context, stage, candidate.name, rung),
        validate_every=search.rungs[0],
        validation_limit=search.validation_limit,
        threads=context.threads,
        targets=context.workflow.targets,
        attributes=context.workflow.attributes,
        horizon=search.rungs[-1],
        store_errors=isinstance(selection_of(context), ErrorSelection),
        origin=_origin(context, stage, candidate) if rung == 0 else None,
    )
    made = TaskRequest(stage.key, NAME, name, TRAIN, spec, rung)
    context.made[datasets.key, stage.key, name] = made
    return made


def _origin(context: Context, stage: StageState, candidate: Candidate) -> WeightsOrigin | None:
    """Return the member of an earlier ensemble whose weights a candidate starts from."""
    if context.earlier is None:
        return None
    members = [name for name, _ in stage.settings["fine_tune"]["members"]]
    return context.earlier.origin(members[int(candidate.name[1:])])


def _start(context: Context, stage: StageState, candidate: str, rung: int) -> str | None:
    """Return the checkpoint at which a training starts: of a shorter former rung, or of the previous rung."""
    key, earlier = stage.starts.get(task_name(candidate, rung), ("", None))
    if earlier is not None and earlier.status is TaskStatus.DONE and not earlier.diverged:
        return str(context.paths.stage(NAME, key).checkpoint(earlier.name))
    return str(stage_paths(context, stage).checkpoint(task_name(candidate, rung - 1))) if rung else None


MORE = ("members", "candidates", "rungs", "validation_limit")  # settings that a search can extend


def _without_more(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in MORE}


class Search(Stage):
    """Search: waves of candidates; each trains from rung to rung as long as it is among the best."""

    name = NAME
    after = ingest.NAME
    code_version = 2  # datasets are numbered in the order of their names, not of the file
    trains = True
    optional = False

    def settings(self, context: Context) -> dict[str, Any]:
        """Return the settings of the candidates."""
        search = context.workflow.search.model_dump(mode="json", exclude=set(POLICIES))
        if not search["asynchronous"]:  # earlier campaigns lack this key
            del search["asynchronous"]
        if search["max_memory_gb"] is None:
            del search["max_memory_gb"]
        if search["objective"] == ["error"]:
            del search["objective"]
        search |= chosen_policies(context.workflow.search, POLICIES)
        search["space"] = context.workflow.search.space.written()
        if search.pop("warm_start") is not None:  # record the results themselves: the file may change or disappear
            search["warm_start"] = to_plain(context.warm_start)
        if context.earlier is not None:
            search["fine_tune"] = context.earlier.recorded()
        search |= learned(context.workflow)
        return {"seed": context.workflow.seed, **search, "members": _selection(context)}

    def advance(self, context: Context, stage: StageState, done: Done) -> Step:
        """Decide the next step of the search."""
        if (failure := first_failure(stage, {Cause.USER_ERROR})) is not None:
            # not the fault of one candidate: others would fail alike, and the user can remove the cause
            return Step(events=(StageFailedEvent(stage.key, failure),))
        search = context.workflow.search
        most = trials(context.workflow)
        left = most - sum(len(wave.candidates) for wave in stage.waves.values())
        sizes = wave_sizes(max(0, left), search.wave, stage.slots)
        agenda = _agenda(context, stage)
        if stage.curtailed is not None:
            running = any(task.status is TaskStatus.RUNNING for task in stage.tasks.values())
            return Step() if running else closing(context, stage)
        decisions = _decisions(context, stage, agenda)
        if decisions:
            return Step(events=decisions)
        size = _size_now(context, stage, agenda, sizes)
        proposal = Proposal(stage.key, len(stage.waves), size) if size else None
        if not sizes and agenda.all_finished:
            if most < search.candidates:
                limits = {"budget.trials": float(most)}
                return Step(events=(StageCurtailed(stage.key, f"the budget has {most} trials", limits),))
            return closing(context, stage)
        return Step(
            tasks=WaitingTrainings(agenda, partial(_train, context, stage, done[ingest.NAME])), proposal=proposal
        )

    def nodes_left(self, context: Context, stage: StageState) -> int | None:
        """Return the nodes of the unfinished trainings after the last proposal, and of those that may follow them."""
        proposed = sum(len(wave.candidates) for wave in stage.waves.values())
        if proposed < trials(context.workflow):
            return None
        sizes = context.sizes[NAME]
        last = _agenda(context, stage).outlook(rung_counts(context.workflow))
        return sum(sizes[min(rung, len(sizes) - 1)].nodes_of(count) for rung, count in enumerate(last))

    def seconds_left(self, context: Context, stage: StageState, now: float) -> float:
        """Return the longest of the expected times of the unfinished trainings."""
        unfinished = _agenda(context, stage).unfinished_trainings()
        return max((expected_seconds(self, context.workflow, stage, one, now) for one in unfinished), default=0.0)

    def may_be_curtailed(self, context: Context, stage: StageState) -> bool:
        """Return whether there are enough finished candidates to choose the members from."""
        return len(_finalists(context, stage)) >= context.workflow.converge.members

    def takes_over(self, opened: StageOpened, earlier: StageState) -> TakenOver | None:
        """Return all results of a search that is extended: members, candidates, longer rungs, validation."""
        same = _without_more(opened.settings) == _without_more(earlier.settings)
        proposed = sum(len(wave.candidates) for wave in earlier.waves.values())
        before, now = list(earlier.settings["rungs"]), list(opened.settings["rungs"])
        whole = now[: len(before)] == before
        longer = now[: len(before) - 1] == before[:-1] and now[len(before) - 1 : len(before)] > before[-1:]
        more = opened.settings["candidates"] >= proposed and (whole or longer)
        if not same or not more or opened.inputs != earlier.inputs:
            return None
        ended = ended_tasks(earlier)
        starts = () if whole else tuple(t for t in ended if self.rung_of(t) == len(before) - 1)
        reused = tuple(task for task in ended if task not in frozenset(starts))
        return TakenOver(earlier.key, reused, decisions=True, starts=starts)

    def folder_of(self, places: StagePaths, task: str) -> Path:
        """Return the checkpoint of a candidate at a rung."""
        return places.checkpoint(task)

    def task_of(self, places: StagePaths, folder: Path) -> str:  # noqa: ARG002 - checkpoints bear the names of tasks
        """Return the training whose checkpoint it is."""
        return folder.name

    def output_tasks(self, stage: StageState) -> list[str]:
        """Return the trainings whose checkpoints are the starts of the members."""
        return list(dict.fromkeys(task_name(m.candidate, m.rung) for m in stage.members or ()))

    def program_of(self, task: str) -> Program[Any, Any]:  # noqa: ARG002 - all tasks train
        """Return the trainer."""
        return TRAIN

    def demand(self, workflow: WorkflowModel) -> Demand:
        """Return the demand of one wave at a time."""
        requested = workflow.resources.search
        nodes = node_list(requested.nodes)
        return TrainingDemand(wave_target(workflow), rung_counts(workflow), nodes, requested.ranks_per_node, fills=True)

    def work(self, context: Context, state: CampaignState) -> Work:
        """Return the numbers of candidates and waves, and the limit per rung."""
        search, stage = context.workflow.search, state.stage(NAME)
        waves = len(wave_sizes(search.candidates, search.wave, stage.slots if stage else context.slots))
        counts = rung_counts(context.workflow)
        rungs = ", ".join(f"{n} to {g:,} graphs" for n, g in zip(counts, search.rungs, strict=True))
        if context.earlier is not None:
            name = Path(context.workflow.fine_tune.model).name if context.workflow.fine_tune else ""
            words = f"{search.candidates} members of {name}, each fine-tuned with {search.rungs[0]:,} graphs"
            return Work(words, search.candidates)
        plural = "wave" if waves == 1 else "waves"
        return Work(f"{search.candidates} candidates in {waves:,} {plural}; {rungs}", sum(counts))

    def graphs(self, workflow: WorkflowModel) -> int:
        """Return the number of graphs with the largest possible number of promotions."""
        rungs = workflow.search.rungs
        steps = [graphs - before for before, graphs in zip([0, *rungs], rungs, strict=False)]
        return sum(count * step for count, step in zip(rung_counts(workflow), steps, strict=True))

    def least_graphs(self, workflow: WorkflowModel) -> int:
        """Return the number of graphs at the first rung for one candidate per member."""
        return workflow.converge.members * workflow.search.rungs[0]

    def graphs_of(self, workflow: WorkflowModel, task: str) -> int:
        """Return the number of graphs between the previous rung and the rung of a training."""
        rungs, rung = workflow.search.rungs, self.rung_of(task)
        return rungs[rung] - (rungs[rung - 1] if rung else 0) if rung < len(rungs) else 0

    def rung_of(self, task: str) -> int:
        """Return the rung that a training ends at."""
        return int(task.rpartition("-r")[2])

    def checkpoints(self, workflow: WorkflowModel) -> int:
        """Return one per training."""
        return sum(rung_counts(workflow))

    def expected_tasks(self, state: CampaignState, stage: StageState) -> int | None:  # noqa: ARG002
        """Return None: the number depends on promotions."""
        return None

    def describe(self, stage: StageState, records: Records) -> str:  # noqa: ARG002
        """Return the numbers of proposed candidates and of early stops."""
        proposed = len(stage.candidates())
        # A stopped candidate that was then chosen for lack of better ones continues: the tables do not count it either.
        stopped = len(stopped_early(stage).keys() - {member.candidate for member in stage.members or ()})
        if (earlier := stage.settings.get("fine_tune")) is not None:
            return f"fine-tuning {proposed} members of the ensemble with SHA-256 {earlier['digest'][:12]}..."
        return f"{proposed} of {stage.settings['candidates']} candidates proposed, {stopped} stopped early"

    def describe_result(self, result: Any) -> str:
        """Return how a training ended."""
        return describe_training(result)
