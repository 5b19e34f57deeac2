"""The next step of a campaign: a pure function of settings and state."""

from __future__ import annotations

from typing import Any

from gfm_pipeline.campaign.events import StageName, StageOpened
from gfm_pipeline.campaign.identity import stage_key
from gfm_pipeline.campaign.state import CampaignState, StageState
from gfm_pipeline.engine.decisions.requests import Context, Step
from gfm_pipeline.engine.stages import calibrate, converge, ingest, search


def opening(context: Context, state: CampaignState, name: StageName) -> StageOpened | None:
    """Return how ``name`` would be opened now, or None while an earlier stage has no outputs yet."""
    inputs = dict(context.source_digests) if name is StageName.INGEST else {}
    for earlier in StageName:
        if earlier is name:
            break
        before = finished_stage(context, state, earlier)
        if before is None or before.outputs is None:
            return None
        inputs |= {f"{earlier}/{artefact}": digest for artefact, digest in before.outputs.items()}
    settings = stage_settings(context, name)
    return StageOpened(name, stage_key(name, settings, inputs), settings, inputs, context.slots)


def stage_settings(context: Context, name: StageName) -> dict[str, Any]:
    """Return the settings the results of a stage depend on, besides its inputs."""
    match name:
        case StageName.INGEST:
            return ingest.settings(context)
        case StageName.SEARCH:
            return search.settings(context)
        case StageName.CONVERGE:
            return converge.settings(context)
    return calibrate.settings(context)


def finished_stage(context: Context, state: CampaignState, name: StageName) -> StageState | None:
    """Return the stage that is done under today's settings and inputs, or None."""
    opened = opening(context, state, name)
    stage = None if opened is None else state.stages.get(opened.key)
    return stage if stage is not None and stage.outputs is not None else None


def decide(context: Context, state: CampaignState) -> Step:
    """Return the next step; the same settings and state always give the same step."""
    for name in StageName:
        opened = opening(context, state, name)
        if opened is None:
            raise RuntimeError(f"{name} cannot be opened before the stages ahead of it are done")
        stage = state.stages.get(opened.key)
        if stage is None or state.current.get(name) != opened.key:
            return Step(events=(opened,))
        if stage.outputs is not None:
            continue
        if stage.failure is not None:
            return Step(failure=f"{str(name).capitalize()} failed: {stage.failure.rstrip('.')}.")
        return _advance(context, state, stage)
    return Step(finished=True)


def _advance(context: Context, state: CampaignState, stage: StageState) -> Step:
    done = {name: finished_stage(context, state, name) for name in StageName if name is not stage.stage}
    first, second, third = done.get(StageName.INGEST), done.get(StageName.SEARCH), done.get(StageName.CONVERGE)
    match stage.stage:
        case StageName.INGEST:
            return ingest.advance(context, stage)
        case StageName.SEARCH if first:
            return search.advance(context, stage, first)
        case StageName.CONVERGE if first and second:
            return converge.advance(context, stage, first, second)
        case StageName.CALIBRATE if first and second and third:
            return calibrate.advance(context, stage, first, second, third)
    raise RuntimeError(f"{stage.stage} runs before the stages ahead of it are done")
