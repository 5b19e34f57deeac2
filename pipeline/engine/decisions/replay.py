"""Derives decisions of searches again from the journal alone, and compares them with the recorded ones.

The decisions of a search are a function of its settings, which are in the journal, and of the
earlier events. So this module reads only the journal, not the workflow file, which may have changed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gfm_pipeline.campaign.events import (
    EnsembleRanked,
    Event,
    MembersSelected,
    RungDecided,
    WaveProposed,
    from_entry,
    to_entry,
)
from gfm_pipeline.campaign.identity import differences
from gfm_pipeline.campaign.journal import read
from gfm_pipeline.campaign.paths import CampaignPaths
from gfm_pipeline.campaign.stage_state import StageState
from gfm_pipeline.campaign.state import CampaignState, load_state
from gfm_pipeline.core.contracts.attempts.stored_errors import ERRORS_FILE
from gfm_pipeline.core.contracts.policies import UNSAID, PolicyChoice
from gfm_pipeline.core.errors import IntegrityError
from gfm_pipeline.core.publish import file_sha256
from gfm_pipeline.engine.decisions.proposals import WaveQuestion, propose_wave, wave_question
from gfm_pipeline.engine.decisions.rankings import ranking_question
from gfm_pipeline.engine.decisions.requests import Context, Proposal, Ranking
from gfm_pipeline.engine.stages.promotions import rung_decision
from gfm_pipeline.engine.stages.search import POLICIES
from gfm_pipeline.engine.stages.search_members import checkpoints, finish
from gfm_pipeline.workflow.schema import ConvergeModel, SearchModel, WorkflowModel

KINDS: dict[type[Any], str] = {
    WaveProposed: "waves of candidates",
    RungDecided: "decisions at rungs",
    EnsembleRanked: "rankings by stored errors",
    MembersSelected: "choices of members",
}
WITHOUT_FILES = "rankings that cannot be derived again, since files of stored errors are removed"


def replayed(paths: CampaignPaths) -> dict[str, int]:
    """Return the number of decisions of each kind that equal the recorded ones.

    Raises
    ------
    IntegrityError
        When the journal is damaged, or a decision differs: with its line and the first different value.
    """
    load_state(paths.journal)  # reports the fault of a damaged journal
    state, contexts = CampaignState(), dict[str, Context]()
    counts: Counter[str] = Counter(dict.fromkeys(KINDS.values(), 0))
    ahead, questions = _proposals_ahead(paths), dict[tuple[str, int], WaveQuestion]()
    for entry in read(paths.journal):
        event = from_entry(entry.kind, entry.data)
        for wanted in ahead.pop(state.version, ()):
            if wanted.key in state.stages:
                questions[wanted.key, wanted.wave] = wave_question(
                    _known(contexts, paths, state, wanted.key), state, wanted
                )
        if isinstance(event, WaveProposed | RungDecided | EnsembleRanked | MembersSelected):
            context = _known(contexts, paths, state, event.key)
            if isinstance(event, EnsembleRanked) and not _files_are_there(context, state, event):
                counts[WITHOUT_FILES] += 1
                state.apply(event, entry.t)
                continue
            _compare(f"{paths.journal}:{entry.n + 1}", event, _derived(context, state, event, questions))
            counts[KINDS[type(event)]] += 1
        state.apply(event, entry.t)
    return {kind: count for kind, count in counts.items() if count or kind != KINDS[EnsembleRanked]}


def _proposals_ahead(paths: CampaignPaths) -> dict[int, list[Proposal]]:
    """Return the proposals that follow from fewer events than precede them in the journal, by number of events."""
    found: dict[int, list[Proposal]] = {}
    for entry in read(paths.journal):
        event = from_entry(entry.kind, entry.data)
        if isinstance(event, WaveProposed) and event.upto is not None:
            found.setdefault(event.upto, []).append(Proposal(event.key, event.wave, len(event.candidates)))
    return found


def _known(contexts: dict[str, Context], paths: CampaignPaths, state: CampaignState, key: str) -> Context:
    if key not in contexts:
        contexts[key] = _context(paths, state.stages[key])
    return contexts[key]


def _derived(
    context: Context,
    state: CampaignState,
    event: WaveProposed | RungDecided | EnsembleRanked | MembersSelected,
    questions: dict[tuple[str, int], WaveQuestion],
) -> Event:
    """Return the present decision in place of a recorded event, from the events before it."""
    stage = state.stages[event.key]
    if isinstance(event, WaveProposed):
        if (question := questions.pop((event.key, event.wave), None)) is not None:
            return question.answered()
        return propose_wave(context, state, Proposal(event.key, event.wave, len(event.candidates)))
    if isinstance(event, RungDecided):
        return rung_decision(context.workflow.search, stage, event.wave, event.rung)
    if isinstance(event, EnsembleRanked):
        return ranking_question(context, state, Ranking(event.key)).answered()
    return finish(context, stage)[0]


def _files_are_there(context: Context, state: CampaignState, event: EnsembleRanked) -> bool:
    """Return whether all files of a ranking exist.

    Raises
    ------
    IntegrityError
        When one has changed.
    """
    for one in checkpoints(context, state.stages[event.key]):
        path = Path(one.folder) / ERRORS_FILE
        recorded = event.digests.get(one.finalist.name)
        if recorded is None:
            continue
        if not path.is_file():
            return False
        if file_sha256(path) != recorded:
            raise IntegrityError(f"{path} was changed after the journal recorded its SHA-256.")
    return True


def _compare(where: str, recorded: Event, derived: Event) -> None:
    # Rebuild the record: records of earlier journals lack attributes with defaults.
    (kind, was), (now_kind, now) = to_entry(replace(recorded)), to_entry(derived)
    if isinstance(recorded, MembersSelected) and not recorded.passed_over:
        now = {**now, "passed_over": {}}  # missing in journals of earlier versions
    found = differences(was, now) if kind == now_kind else [f"{kind} -> {now_kind}"]
    if found or was != now:
        raise IntegrityError(
            f"{where}: this decision does not follow from the events before it ({(found or [kind])[0]}).",
            "The journal was changed, or another version decided: `gfm-pipeline status` names those that ran.",
        )


def _fault(error: ValidationError | KeyError) -> str:
    """Return the first fault of recorded settings, with its key."""
    if isinstance(error, KeyError):
        return f"{error.args[0]} is missing"
    first = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, first['loc']))} {first['msg'].removeprefix('Value error, ').rstrip('.')}"


def _context(paths: CampaignPaths, stage: StageState) -> Context:
    """Return the settings a stage was opened with, as far as its decisions depend on them."""
    settings = stage.settings
    known = SearchModel.model_fields.keys() - {"warm_start"}  # its results are in the settings themselves
    given = {name: value for name, value in settings.items() if name in known}
    members = settings.get("members", {})
    try:
        policies = {name: _choice(settings, name) for name in POLICIES}
        search = SearchModel.model_validate({"asynchronous": False, **given, **policies})
        converge = ConvergeModel.model_validate(
            {
                "members": members["count"],
                "max_per_algorithm": members.get("max_per_algorithm"),
                "selection": _choice(members, "selection"),
            }
        )
    except (ValidationError, KeyError) as error:
        raise IntegrityError(
            f"{paths.journal}: this version cannot read the settings of the search {stage.key[:10]}: {_fault(error)}.",
            "Replay the campaign with the version and the packages that recorded it.",
        ) from error
    workflow = WorkflowModel.model_construct(seed=settings.get("seed", 0), search=search, converge=converge)
    return Context(workflow, (), {}, stage.slots, 1, paths, {})


def _choice(settings: Mapping[str, Any], name: str) -> PolicyChoice:
    chosen = settings.get(name)
    return PolicyChoice(UNSAID[name], {}) if chosen is None else PolicyChoice(chosen["name"], chosen["options"])
