"""Refuses settings of a search and its members that contradict each other, before the search begins."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from gfm_pipeline.campaign.budget_standing import QUANTITIES
from gfm_pipeline.core.contracts.energy import AUTO, MODEL
from gfm_pipeline.core.contracts.policies import STOPPING, make_policy
from gfm_pipeline.engine.decisions.estimates import CHECKPOINT_BYTES
from gfm_pipeline.engine.stages.search_size import rung_counts
from gfm_pipeline.search.space import Choice
from gfm_pipeline.search.stopping import StoppingPolicy
from gfm_pipeline.sites.schema import SiteModel
from gfm_pipeline.workflow.load import LoadedWorkflow
from gfm_pipeline.workflow.schema import WorkflowModel

MOST_CANDIDATES = 10**6
MOST_REDUCTION, LEAST_REDUCTION = 2.5, 1.001
PROCESS_GB = 0.2  # of a process that has imported PyTorch for CPUs
FEWEST_PARAMETERS = 1  # of a model, in units of layers x hidden^2: less than any architecture has
UNDEMANDING = 1.0 + 1e-9  # a reduction that stops nobody


@dataclass(frozen=True)
class Contradiction:
    """A setting that cannot hold together with others: its key, the fault, and the fix."""

    key: tuple[str, ...]
    fault: str
    fix: str


def with_reduction(workflow: WorkflowModel) -> WorkflowModel:
    """Return a workflow with the default of ``search.reduction`` if its file has none.

    As many candidates as there are members reach the last rung, if there are more candidates than members.
    """
    search = workflow.search
    if "reduction" in search.model_fields_set:
        return workflow
    steps = max(1, len(search.rungs) - 1)
    suffices = (search.candidates / workflow.converge.members) ** (1.0 / steps)
    reduction = min(MOST_REDUCTION, max(LEAST_REDUCTION, math.floor(100.0 * suffices + 1e-9) / 100.0))
    filled = search.model_copy(update={"reduction": reduction})
    filled.__pydantic_fields_set__.discard("reduction")
    return workflow.model_copy(update={"search": filled})


def _is_chosen(workflow: WorkflowModel) -> bool:
    """Return whether the workflow itself says how many candidates are promoted."""
    return bool({"reduction", "stopping"} & workflow.search.model_fields_set)


def refuse_contradictions(loaded: LoadedWorkflow) -> None:
    """Refuse the first contradiction.

    Raises
    ------
    WorkflowError
        With the key, its line, and the fix.
    """
    for check in CHECKS:
        for found in check(loaded.model):
            raise loaded.error(found.key, f"{'.'.join(found.key)} {found.fault}.", found.fix)


def _listed(counts: tuple[int, ...]) -> str:
    return ", ".join(f"{count:,}" for count in counts)


def _promoting_key(workflow: WorkflowModel) -> tuple[str, ...]:
    """Return the key that decides how many candidates are promoted."""
    search = workflow.search
    policy = make_policy(STOPPING, search.stopping, StoppingPolicy)
    last = len(search.rungs) - 1
    by_reduction = policy.most(MOST_CANDIDATES, last, UNDEMANDING) != policy.most(MOST_CANDIDATES, last, 2.0)
    options = tuple(search.stopping.options)
    return ("search", "reduction") if by_reduction else ("search", "stopping", *options[:1])


def _candidates_for(workflow: WorkflowModel, wanted: int) -> int | None:
    """Return the smallest number of candidates of which ``wanted`` can reach the last rung; None: too many."""
    search = workflow.search
    policy = make_policy(STOPPING, search.stopping, StoppingPolicy)
    low, high = search.candidates, MOST_CANDIDATES
    if policy.most(high, len(search.rungs) - 1, search.reduction) < wanted:
        return None
    while low < high:
        middle = (low + high) // 2
        if policy.most(middle, len(search.rungs) - 1, search.reduction) < wanted:
            low = middle + 1
        else:
            high = middle
    return low


def _nobody_promoted(workflow: WorkflowModel) -> Iterator[Contradiction]:
    counts, key = rung_counts(workflow), _promoting_key(workflow)
    if 0 in counts and _is_chosen(workflow):
        enough = _candidates_for(workflow, 1)
        more = "" if enough is None else f", or set search.candidates to {enough:,} or more"
        yield Contradiction(
            key,
            f"lets none of {workflow.search.candidates:,} candidates reach rung {counts.index(0)} "
            f"(at most {_listed(counts)} candidates at rungs 0 to {len(counts) - 1})",
            f"Lower {'.'.join(key)}{more}.",
        )


def _too_few_survivors(workflow: WorkflowModel) -> Iterator[Contradiction]:
    members, counts = workflow.converge.members, rung_counts(workflow)
    if members > counts[-1] and _is_chosen(workflow):
        enough = _candidates_for(workflow, members)
        more = "" if enough is None else f"search.candidates to {enough:,} or more, or "
        yield Contradiction(
            ("converge", "members"),
            f"is {members:,}, but at most {counts[-1]:,} of {workflow.search.candidates:,} candidates survive to the "
            f"last rung (at most {_listed(counts)} at rungs 0 to {len(counts) - 1})",
            f"Set {more}converge.members to {counts[-1]:,} or less.",
        )


def _wave_of_more_than_all(workflow: WorkflowModel) -> Iterator[Contradiction]:
    wave, candidates = workflow.search.wave, workflow.search.candidates
    if isinstance(wave, int) and wave > candidates:
        yield Contradiction(
            ("search", "wave"),
            f"is {wave:,}, more than the {candidates:,} candidates in all",
            f"Set search.wave to auto, or to {candidates:,} or less.",
        )


def _never_validated(workflow: WorkflowModel) -> Iterator[Contradiction]:
    every, limit = workflow.converge.check_every, workflow.converge.max_graphs
    if every > limit:
        yield Contradiction(
            ("converge", "check_every"),
            f"is {every:,}, so no member would be validated within its {limit:,} graphs (converge.max_graphs)",
            f"Set converge.check_every to {limit:,} or less.",
        )


def _cap_leaves_places(workflow: WorkflowModel) -> Iterator[Contradiction]:
    cap, members = workflow.converge.max_per_algorithm, workflow.converge.members
    algorithms = len(workflow.search.space.algorithm)
    if cap is not None and cap * algorithms < members:
        yield Contradiction(
            ("converge", "max_per_algorithm"),
            f"is {cap:,}, which leaves {members - cap * algorithms:,} of the {members:,} members without a candidate "
            f"({algorithms} algorithm{'s' if algorithms > 1 else ''})",
            f"Set converge.max_per_algorithm to {-(-members // algorithms):,} or more, or to null.",
        )


def _stage_above_campaign(workflow: WorkflowModel) -> Iterator[Contradiction]:
    for name, stage in workflow.budget.stages.items():
        for quantity in QUANTITIES:
            own, whole = getattr(stage, quantity), getattr(workflow.budget, quantity)
            if own is not None and whole is not None and own > whole:
                yield Contradiction(
                    ("budget", "stages", name, quantity),
                    f"is {own:g}, more than budget.{quantity} ({whole:g}) of the whole campaign",
                    f"Lower it to {whole:g} or less, or raise budget.{quantity}.",
                )


def _several_objectives(workflow: WorkflowModel) -> Iterator[Contradiction]:
    search = workflow.search
    if len(search.objective) < 2:
        return
    if search.warm_start is not None:
        yield Contradiction(
            ("search", "warm_start"),
            f"names a table of errors, which has no {' and '.join(search.objective[1:])} of search.objective",
            "Leave search.warm_start out, or set search.objective to error.",
        )
    if not make_policy(STOPPING, search.stopping, StoppingPolicy).by_order:
        yield Contradiction(
            ("search", "stopping"),
            f"is {search.stopping.name}, which needs the size of one objective, and search.objective has "
            f"{len(search.objective)}",
            "Choose asha, median, fixed or none.",
        )


def refuse_unmeasured(loaded: LoadedWorkflow, site: SiteModel) -> None:
    """Refuse an objective that nothing on a site measures or models.

    Raises
    ------
    WorkflowError
        With the key, its line, and the fix.
    """
    energy = site.energy
    if "kwh" not in loaded.model.search.objective or energy.node_watts is not None or site.slot_watts() is not None:
        return
    if energy.source not in (AUTO, MODEL):
        return  # counters that the site names
    raise loaded.error(
        ("search", "objective"),
        f"search.objective has kwh, which site {site.name} may not measure: it names no counters and no power model.",
        "Set site.energy.node_watts or site.energy.core_watts (kWh is then modelled where no counter is found, and "
        "labelled so), or site.energy.source.",
    )


def refuse_unreachable_memory(loaded: LoadedWorkflow, site: SiteModel) -> None:
    """Refuse a limit of memory that not even the smallest candidate of the space can keep.

    Raises
    ------
    WorkflowError
        With the key, its line, and the fix.
    """
    limit, on_gpu = loaded.model.search.max_memory_gb, bool(site.node.gpus)
    if limit is None:
        return
    least = _least_memory_gb(loaded.model) if on_gpu else max(PROCESS_GB, _least_memory_gb(loaded.model))
    if limit < least:
        why = (
            "the smallest model, with its average and the moments of its optimiser,"
            if least > PROCESS_GB or on_gpu
            else "a process with PyTorch, before it has a model,"
        )
        raise loaded.error(
            ("search", "max_memory_gb"),
            f"search.max_memory_gb is {limit:g}, which no candidate can keep: {why} takes {least:.2g} GB per rank.",
            f"Set search.max_memory_gb to more than {least:.2g}, to what a rank has, or to null.",
        )


def _least_memory_gb(workflow: WorkflowModel) -> float:
    """Return a lower bound of the memory of any candidate (GB)."""
    space = workflow.search.space.compile()
    sides = []
    for name in ("layers", "hidden"):
        dimensions = [space.shared[name], *(own[name] for own in space.own.values() if name in own)]
        sides.append(min(min(d.values) if isinstance(d, Choice) else d.low for d in dimensions))
    return float(FEWEST_PARAMETERS * sides[0] * sides[1] ** 2 * CHECKPOINT_BYTES / 1e9)


CHECKS: tuple[Callable[[WorkflowModel], Iterator[Contradiction]], ...] = (
    _nobody_promoted,
    _too_few_survivors,
    _wave_of_more_than_all,
    _never_validated,
    _cap_leaves_places,
    _stage_above_campaign,
    _several_objectives,
)
