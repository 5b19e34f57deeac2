"""Why a stage would run or not: old and new values of its settings and inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gfm_pipeline.campaign.identity import differences
from gfm_pipeline.campaign.stage_state import StageState
from gfm_pipeline.campaign.state import CampaignState
from gfm_pipeline.engine.decisions.decide import finished_stage, opening, stage_names, stage_settings
from gfm_pipeline.engine.decisions.requests import Context


@dataclass(frozen=True)
class Explanation:
    """Why ``stage`` is cached or will run.

    Attributes
    ----------
    cached
        Whether its results are reused.
    reason
        One sentence.
    changes
        One line per value that changed since the stage was last opened: ``key: old -> new``.
    waits_for
        The first stage that must run before it, or None. The outputs of that stage are unknown inputs.
    key, last_key
        The present key (None while an input is unknown) and the latest key of the stage (None: never opened).
    """

    stage: str
    cached: bool
    reason: str
    changes: tuple[str, ...]
    waits_for: str | None
    key: str | None
    last_key: str | None


def explain(context: Context, state: CampaignState, name: str) -> Explanation:
    """Return why a stage is cached or will run; equal settings and state always give equal answers."""
    last = state.stage(name)
    last_key = None if last is None else last.key
    order = stage_names(context)
    waits_for = next((s for s in order if finished_stage(context, state, s) is None), None)
    if waits_for is not None and order.index(waits_for) < order.index(name):
        changes = _changes(last, stage_settings(context, name), None)
        reason = f"{waits_for} is to run before it, and its results are inputs of {name}"
        return Explanation(name, False, reason, changes, waits_for, None, last_key)
    opened = opening(context, state, name)
    if opened is None:
        raise RuntimeError(f"{name} has no inputs though nothing is to run before it")
    stage = state.stages.get(opened.key)
    if stage is not None and stage.outputs is not None:
        reason = "it is done, and nothing it depends on has changed since"
        return Explanation(name, True, reason, (), None, opened.key, last_key)
    changes = _changes(last, opened.settings, opened.inputs)
    if stage is not None and stage.failure is not None:
        reason = f"it failed: {stage.failure.rstrip('.')}"
    elif stage is not None:
        reason = "it was begun and is not done; its finished tasks are kept"
    elif last is None:
        reason = "it was never begun"
    elif changes:
        reason = "what it depends on has changed"
    else:
        reason = "the program makes it in another way than the version that made it last"
    return Explanation(name, False, reason, changes, None, opened.key, last_key)


def _changes(last: StageState | None, settings: dict[str, Any], inputs: dict[str, str] | None) -> tuple[str, ...]:
    if last is None:
        return ()
    lines = differences(last.settings, settings)
    if inputs is not None:
        lines += differences(_named(last.inputs), _named(inputs))
    return tuple(lines)


def _named(inputs: dict[str, str]) -> dict[str, str]:
    """Return shortened digests, under names that mark them as inputs."""
    return {f"input {name}": digest[:12] for name, digest in inputs.items()}
