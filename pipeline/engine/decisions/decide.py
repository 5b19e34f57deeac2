"""The next step of a campaign: a pure function of settings and state."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gfm_pipeline.campaign.events import StageOpened, TakenOver
from gfm_pipeline.campaign.identity import stage_key
from gfm_pipeline.campaign.stage_state import StageState
from gfm_pipeline.campaign.state import CampaignState
from gfm_pipeline.engine.decisions.budget_limits import raised
from gfm_pipeline.engine.decisions.requests import Context, Step
from gfm_pipeline.engine.stages.base import Stage
from gfm_pipeline.engine.stages.table import stages_of


def stage_of(context: Context, name: str) -> Stage:
    """Return a stage of the campaign by its name."""
    return next(stage for stage in stages_of(context.workflow) if stage.name == name)


def stage_names(context: Context) -> list[str]:
    """Return the names of the campaign's stages, in the order they run."""
    return [stage.name for stage in stages_of(context.workflow)]


def opening(context: Context, state: CampaignState, name: str) -> StageOpened | None:
    """Return the event that would open ``name`` now, or None while an earlier stage has no outputs."""
    declared = stage_of(context, name)
    made: list[tuple[str, dict[str, str]]] = []
    for earlier in stages_of(context.workflow):
        if earlier is declared:
            break
        before = finished_stage(context, state, earlier.name)
        if before is None or before.outputs is None:
            return None
        made.append((earlier.name, before.outputs))
    known = context.openings.get(name)
    if (
        known is not None
        and len(known[0]) == len(made)
        and all(a is b for a, (_, b) in zip(known[0], made, strict=True))
    ):
        return _as_before(state, declared, known[1])  # unchanged settings and inputs
    inputs = dict(declared.inputs(context))
    for earlier_name, outputs in made:
        needed = declared.needs(outputs)
        inputs |= {f"{earlier_name}/{artefact}": digest for artefact, digest in needed.items()}
    settings = declared.settings(context)
    key = stage_key(name, settings, inputs, declared.code_version)
    opened = StageOpened(name, key, settings, inputs, context.slots)
    context.openings[name] = tuple(outputs for _, outputs in made), opened
    return _as_before(state, declared, opened)


def _as_before(state: CampaignState, wanted: Stage, opened: StageOpened) -> StageOpened:
    """Return the latest opening of a stage under settings with the same results; else the given opening."""
    if opened.key in state.stages:
        return opened
    for earlier in reversed(list(state.stages.values())):
        if earlier.stage == wanted.name and wanted.same_results(opened, earlier):
            made_by = stage_key(wanted.name, earlier.settings, earlier.inputs, wanted.code_version)
            if made_by == earlier.key:  # and not from an earlier version of the stage's code
                return StageOpened(wanted.name, earlier.key, earlier.settings, earlier.inputs, earlier.slots)
    return opened


def stage_settings(context: Context, name: str) -> dict[str, Any]:
    """Return the settings that determine the results of a stage, in addition to its inputs."""
    return stage_of(context, name).settings(context)


def finished_stage(context: Context, state: CampaignState, name: str) -> StageState | None:
    """Return the finished stage under the present settings and inputs, or None."""
    opened = opening(context, state, name)
    stage = None if opened is None else state.stages.get(opened.key)
    return stage if stage is not None and stage.outputs is not None and not _goes_on(context, stage) else None


def _goes_on(context: Context, stage: StageState) -> bool:
    """Return whether a stage ended early by a budget that is larger now."""
    return stage.curtailed is not None and raised(context.workflow, stage.curtailed, stage.stage)


def taken_over(state: CampaignState, stage: Stage, opened: StageOpened) -> TakenOver | None:
    """Return the results that a newly opened stage takes over from an earlier stage, the latest first."""
    for earlier in reversed(list(state.stages.values())):
        reused = stage.takes_over(opened, earlier) if earlier.stage == stage.name else None
        if reused is not None and reused.tasks:
            return reused
    return None


def decide(context: Context, state: CampaignState) -> Step:
    """Return the next step; equal settings and state always give equal steps."""
    done: dict[str, StageState] = {}
    for stage in stages_of(context.workflow):
        opened = opening(context, state, stage.name)
        if opened is None:
            raise RuntimeError(f"{stage.name} cannot be opened before the stages ahead of it are done")
        known = state.stages.get(opened.key)
        if known is None:
            return Step(events=(replace(opened, taken=taken_over(state, stage, opened)),))
        if state.current.get(stage.name) != opened.key:
            return Step(events=(opened,))
        if _goes_on(context, known):
            return Step(events=(opened,))
        if known.outputs is not None:
            done[stage.name] = known
            if stage.name == context.until:
                return Step(finished=True)
            continue
        if known.failure is not None:
            return Step(failure=f"{stage.name.capitalize()} failed: {known.failure.rstrip('.')}.")
        return stage.advance(context, known, done)
    return Step(finished=True)
