"""The decisions of a campaign in brief, for the model card of an exported ensemble."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gfm_pipeline.campaign.paths import CampaignPaths
from gfm_pipeline.campaign.stage_state import StageState
from gfm_pipeline.campaign.state import CampaignState, load_state
from gfm_pipeline.core.contracts.policies import UNSAID
from gfm_pipeline.core.contracts.training_result import TrainResult
from gfm_pipeline.engine.stages import calibrate, converge, search
from gfm_pipeline.engine.stages.trials import stopped_early

HEADING = "## Decisions of the campaign"


def decisions_in_brief(campaign: Path) -> str:
    """Return a section of Markdown: splits, what was searched, why these members, and why their trainings ended.

    The text has no dates and no paths, so that equal campaigns have equal cards. It is empty without a calibrated
    ensemble, and for a folder that is no campaign.

    Raises
    ------
    IntegrityError
        When the journal is damaged.
    """
    paths = CampaignPaths(campaign.resolve())
    if not paths.journal.is_file():
        return ""
    state = load_state(paths.journal)
    searched, judged = state.stage(search.NAME), state.stage(calibrate.NAME)
    if searched is None or judged is None or judged.outputs is None or not searched.members:
        return ""
    lines = [*_searched(searched), *_members(searched, state.stage(converge.NAME)), *_versions(state)]
    return "\n".join([HEADING, "", *(f"- {line}" for line in lines)])


def _searched(stage: StageState) -> Iterator[str]:
    settings = stage.settings
    candidates, stopped = stage.candidates(), stopped_early(stage)
    rungs = ", ".join(f"{graphs:,}" for graphs in settings["rungs"])
    if (earlier := settings.get("fine_tune")) is not None:
        yield (
            f"No architectures were searched: the {len(candidates)} members of the ensemble with SHA-256 "
            f"{earlier['digest']} went on from their weights, each with {rungs} graphs of the new data."
        )
    else:
        algorithms = list(dict.fromkeys(str(one.settings["algorithm"]) for one in candidates.values()))
        yield (
            f"{len(candidates)} candidates of {', '.join(algorithms)} were trained, proposed by "
            f"{_policy(settings, 'proposals')}; early stopping by {_policy(settings, 'stopping')} ended {len(stopped)} "
            f"of them, at rungs of {rungs} graphs."
        )
        ranges = {name: value for name, value in settings["space"].items() if isinstance(value, list | dict) and value}
        searched = [name for name, value in ranges.items() if isinstance(value, dict) or len(value) > 1]
        yield f"Searched hyperparameters: {', '.join(sorted(set(searched) - {'per_algorithm'})) or 'none'}."
    if stage.curtailed is not None:
        yield "The search ended early, since a budget was spent."


def _members(stage: StageState, trained: StageState | None) -> Iterator[str]:
    rule = _policy(stage.settings["members"], "selection")
    yield f"The {len(stage.members or ())} members were chosen from them by the rule `{rule}`, on validation errors."
    for member in stage.members or ():
        task = None if trained is None else trained.tasks.get(member.name)
        result = None if task is None else task.decoded(TrainResult)
        ended = "" if result is None else f", then {result.graphs:,} graphs in all. {result.message}".rstrip(".")
        yield (
            f"{member.name}: candidate {member.candidate} ({member.settings['algorithm']}), objective "
            f"{member.objective:.4f} when chosen{ended}."
        )


def _versions(state: CampaignState) -> Iterator[str]:
    versions = list(dict.fromkeys(one.info.version for one in state.drivers))
    yield f"Drivers of gfm-pipeline {', '.join(versions)} made these decisions; the seed is in the table of members."


def _policy(settings: Any, name: str) -> str:
    chosen = settings.get(name)
    return UNSAID[name] if chosen is None else str(chosen["name"])
