"""Search: waves of candidates, each trained from rung to rung while it is among the best.

Waves are proposed one ahead: wave w is based on the first-rung results of waves up to w - 2, so no slot
waits at a barrier for the slowest candidate, and yet every proposal and every promotion is a function of
a fixed set of results. An interrupted and resumed search therefore takes exactly the same decisions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gfm_pipeline.campaign.events import (
    Candidate,
    Cause,
    Event,
    Member,
    MembersSelected,
    RungDecided,
    StageDone,
    StageFailedEvent,
    StageOpened,
    TakenOver,
)
from gfm_pipeline.campaign.paths import StagePaths
from gfm_pipeline.campaign.stage_state import StageState
from gfm_pipeline.campaign.state import CampaignState
from gfm_pipeline.core.contracts.policies import SELECTIONS, STOPPING, make_policy
from gfm_pipeline.core.contracts.targets import DEFAULT
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
    is_to_start,
    result_of,
    stage_paths,
)
from gfm_pipeline.engine.resources.demand import Demand, TrainingDemand
from gfm_pipeline.engine.stages import ingest
from gfm_pipeline.engine.stages.base import Done, Records, Stage, Work
from gfm_pipeline.engine.stages.ingest import dataset_refs
from gfm_pipeline.engine.stages.trials import (
    TRAIN,
    candidate_seed,
    describe_training,
    ended_tasks,
    finished,
    node_list,
    objective_of,
    stopped_early,
    task_name,
)
from gfm_pipeline.search.selection import Finalist, Selection
from gfm_pipeline.search.stopping import StoppingPolicy

if TYPE_CHECKING:
    from gfm_pipeline.workflow.schema import ConvergeModel, SearchModel, WorkflowModel

NAME = "search"
LAG = 1  # waves proposed ahead of the results they are based on
WAVES = 4  # waves an automatic search aims at
POLICIES, SELECTION = ("stopping", "proposals"), ("selection",)


def chosen_policies(section: SearchModel | ConvergeModel, names: Sequence[str]) -> dict[str, Any]:
    """Return the policies of a section that are not the default: results of the default ones bear no word of them."""
    chosen = {name: getattr(section, name) for name in names}
    default = type(section).model_fields
    return {name: to_plain(choice) for name, choice in chosen.items() if choice != default[name].default}


def _selection(context: Context) -> dict[str, Any]:
    converge = context.workflow.converge
    cap = converge.max_per_algorithm or math.ceil(converge.members / 2)
    return {"count": converge.members, "max_per_algorithm": cap, **chosen_policies(converge, SELECTION)}


def wave_sizes(candidates: int, wave: int | str, slots: int) -> list[int]:
    """Return the size of each wave; ``auto`` makes a wave as large as the site has slots."""
    size = slots if wave == "auto" else int(wave)
    full, rest = divmod(candidates, size)
    return [size] * full + ([rest] if rest else [])


def _has_start(stage: StageState, candidate: str, rung: int) -> bool:
    """Return whether the rung before is there to go on from: it may be being made again, after it was lost."""
    return rung == 0 or finished(stage, candidate, rung - 1)


def _first_rung_done(stage: StageState, wave: int) -> bool:
    """Return whether all candidates of waves up to ``wave`` have finished their first rung."""
    return all(finished(stage, c.name, 0) for w in range(wave + 1) for c in stage.waves[w].candidates)


def _entrants(stage: StageState, wave: int, rung: int) -> tuple[str, ...] | None:
    """Return who enters a rung in a wave's decision, or None while that is not decided."""
    if rung == 0:
        proposed = stage.waves.get(wave)
        return None if proposed is None else tuple(c.name for c in proposed.candidates)
    before = stage.decisions.get((wave, rung - 1))
    return None if before is None else before.promoted


def _decisions(context: Context, stage: StageState) -> tuple[Event, ...]:
    """Return the first promotion decision whose results are all in."""
    search = context.workflow.search
    policy = make_policy(STOPPING, search.stopping, StoppingPolicy)
    for rung in range(len(search.rungs) - 1):
        objectives: dict[str, float | None] = {}
        promoted: frozenset[str] = frozenset()
        for wave in sorted(stage.waves):
            entrants = _entrants(stage, wave, rung)
            if entrants is None or not all(finished(stage, name, rung) for name in entrants):
                break
            objectives |= {name: objective_of(stage, name, rung) for name in entrants}
            known = stage.decisions.get((wave, rung))
            if known is None:
                verdict = policy.promote(objectives, entrants, promoted, search.reduction)
                return (RungDecided(stage.key, wave, rung, verdict.promoted, verdict.stopped),)
            promoted |= frozenset(known.promoted)
    return ()


def _wanted(stage: StageState) -> list[tuple[Candidate, int]]:
    """Return every training the decisions so far ask for, as candidate and rung, highest rung first."""
    candidates = stage.candidates()
    wanted = [(0, c.wave, c.name) for c in candidates.values()]
    for (wave, rung), decision in stage.decisions.items():
        wanted += [(-(rung + 1), wave, name) for name in decision.promoted]
    return [(candidates[name], -rung) for rung, _, name in sorted(wanted)]


def _train(context: Context, stage: StageState, datasets: StageState, candidate: Candidate, rung: int) -> AnyRequest:
    name = task_name(candidate.name, rung)
    known = context.made.get((datasets.key, stage.key, name))
    if known is not None:
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
        checkpoint=str(paths.checkpoint(task_name(candidate.name, rung - 1))) if rung else None,
        validate_every=search.rungs[0],
        validation_limit=search.validation_limit,
        threads=context.threads,
    )
    made = TaskRequest(stage.key, NAME, name, TRAIN, spec, rung)
    context.made[datasets.key, stage.key, name] = made
    return made


def _finish(context: Context, stage: StageState) -> tuple[Event, ...]:
    """Choose the members and close the stage, or fail it."""
    rungs = context.workflow.search.rungs
    candidates = stage.candidates()
    finalists = []
    for candidate in candidates.values():
        reached = [r for r in range(len(rungs)) if objective_of(stage, candidate.name, r) is not None]
        if reached:
            value = objective_of(stage, candidate.name, reached[-1]) or 0.0
            finalists.append(Finalist(candidate.name, reached[-1], value, str(candidate.settings["algorithm"])))
    selection = _selection(context)
    if len(finalists) < selection["count"]:
        reason = (
            f"only {len(finalists)} of {len(candidates)} candidates ended with a finite objective, "
            f"{selection['count']} members are wanted"
        )
        return (StageFailedEvent(stage.key, reason),)
    choice = make_policy(SELECTIONS, context.workflow.converge.selection, Selection)
    chosen = choice.choose(finalists, selection["count"], selection["max_per_algorithm"])
    members = tuple(
        Member(f"m{i:02d}", f.name, f.rung, f.objective, candidates[f.name].settings) for i, f in enumerate(chosen)
    )
    trained = {m.name: result_of(stage, task_name(m.candidate, m.rung), TRAIN) for m in members}
    outputs = {name: str(result.digest) for name, result in trained.items() if result is not None}
    return (MembersSelected(stage.key, members), StageDone(stage.key, outputs))


def rung_counts(workflow: WorkflowModel) -> tuple[int, ...]:
    """Return the most candidates that train to each rung."""
    search = workflow.search
    policy = make_policy(STOPPING, search.stopping, StoppingPolicy)
    return tuple(policy.most(search.candidates, rung, search.reduction) for rung in range(len(search.rungs)))


def wave_target(workflow: WorkflowModel) -> int:
    """Return how many candidates should train at a time."""
    search = workflow.search
    return min(search.wave, search.candidates) if isinstance(search.wave, int) else -(-search.candidates // WAVES)


def _without_choice(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name != "members"}


class Search(Stage):
    """Search: waves of candidates, each trained from rung to rung while it is among the best."""

    name = NAME
    after = ingest.NAME
    code_version = 2  # datasets are numbered in the order of their names, not of the file
    trains = True
    optional = False

    def settings(self, context: Context) -> dict[str, Any]:
        """Return what the candidates depend on."""
        search = context.workflow.search.model_dump(mode="json", exclude=set(POLICIES))
        search |= chosen_policies(context.workflow.search, POLICIES)
        search["space"] = context.workflow.search.space.written()
        targets = [target.learned() for target in context.workflow.targets]
        if targets != [target.learned() for target in DEFAULT]:  # which campaigns of before know nothing of
            search["targets"] = targets
        return {"seed": context.workflow.seed, **search, "members": _selection(context)}

    def advance(self, context: Context, stage: StageState, done: Done) -> Step:
        """Decide the next step of the search."""
        if (failure := first_failure(stage, {Cause.USER_ERROR})) is not None:
            # no bad luck of a candidate: others will end alike, and what is wrong can be mended
            return Step(events=(StageFailedEvent(stage.key, failure),))
        search = context.workflow.search
        sizes = wave_sizes(search.candidates, search.wave, stage.slots)
        decisions = _decisions(context, stage)
        if decisions:
            return Step(events=decisions)
        next_wave = len(stage.waves)
        proposal = None
        if next_wave < len(sizes) and _first_rung_done(stage, next_wave - 1 - LAG):
            proposal = Proposal(stage.key, next_wave, sizes[next_wave])
        wanted = _wanted(stage)
        if proposal is None and next_wave == len(sizes) and all(finished(stage, c.name, rung) for c, rung in wanted):
            return Step(events=_finish(context, stage))
        starting = [
            _train(context, stage, done[ingest.NAME], candidate, rung)
            for candidate, rung in wanted
            if is_to_start(stage, task_name(candidate.name, rung)) and _has_start(stage, candidate.name, rung)
        ]
        return Step(tasks=tuple(starting), proposal=proposal)

    def takes_over(self, opened: StageOpened, earlier: StageState) -> TakenOver | None:
        """Return all of a search that differs in nothing but who is chosen for the ensemble."""
        same = _without_choice(opened.settings) == _without_choice(earlier.settings)
        if not same or opened.inputs != earlier.inputs:
            return None
        return TakenOver(earlier.key, ended_tasks(earlier), decisions=True)

    def folder_of(self, places: StagePaths, task: str) -> Path:
        """Return the checkpoint of a candidate at a rung."""
        return places.checkpoint(task)

    def task_of(self, places: StagePaths, folder: Path) -> str:  # noqa: ARG002 - checkpoints bear the names of tasks
        """Return the training whose checkpoint it is."""
        return folder.name

    def output_tasks(self, stage: StageState) -> list[str]:
        """Return the trainings whose checkpoints the members go on from."""
        return list(dict.fromkeys(task_name(m.candidate, m.rung) for m in stage.members or ()))

    def program_of(self, task: str) -> Program[Any, Any]:  # noqa: ARG002 - all tasks train
        """Return the trainer."""
        return TRAIN

    def demand(self, workflow: WorkflowModel) -> Demand:
        """Return that of one wave at a time."""
        asked = workflow.resources.search
        nodes = node_list(asked.nodes)
        return TrainingDemand(wave_target(workflow), rung_counts(workflow), nodes, asked.ranks_per_node, fills=True)

    def work(self, context: Context, state: CampaignState) -> Work:
        """Return the candidates, the waves, and how many may reach each rung."""
        search, stage = context.workflow.search, state.stage(NAME)
        waves = len(wave_sizes(search.candidates, search.wave, stage.slots if stage else context.slots))
        counts = rung_counts(context.workflow)
        rungs = ", ".join(f"{n} to {g:,} graphs" for n, g in zip(counts, search.rungs, strict=True))
        plural = "wave" if waves == 1 else "waves"
        return Work(f"{search.candidates} candidates in {waves:,} {plural}; {rungs}", sum(counts))

    def graphs(self, workflow: WorkflowModel) -> int:
        """Return the graphs seen when as many candidates as may be promoted are promoted."""
        rungs = workflow.search.rungs
        steps = [graphs - before for before, graphs in zip([0, *rungs], rungs, strict=False)]
        return sum(count * step for count, step in zip(rung_counts(workflow), steps, strict=True))

    def checkpoints(self, workflow: WorkflowModel) -> int:
        """Return one per training."""
        return sum(rung_counts(workflow))

    def expected_tasks(self, state: CampaignState, stage: StageState) -> int | None:  # noqa: ARG002
        """Return None: it depends on who is promoted."""
        return None

    def describe(self, stage: StageState, records: Records) -> str:  # noqa: ARG002
        """Return how many candidates were proposed and how many stopped early."""
        proposed = len(stage.candidates())
        # One that was stopped and then chosen for want of better ones trains on: the tables do not count it either.
        stopped = len(stopped_early(stage).keys() - {member.candidate for member in stage.members or ()})
        return f"{proposed} of {stage.settings['candidates']} candidates proposed, {stopped} stopped early"

    def describe_result(self, result: Any) -> str:
        """Return how a training ended."""
        return describe_training(result)
