"""Artefacts that the journal lists, and checks of their presence.

A finished stage guarantees its outputs; a starting task needs its inputs. Both are checked before they are used:
missing artefacts are made again, and artefacts that differ from the journal are refused.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from gfm_pipeline.campaign.events import ArtefactLost
from gfm_pipeline.campaign.paths import CampaignPaths
from gfm_pipeline.campaign.stage_state import StageState, TaskState, TaskStatus
from gfm_pipeline.campaign.state import CampaignState
from gfm_pipeline.core.contracts.task import TaskSpec
from gfm_pipeline.core.errors import IntegrityError
from gfm_pipeline.core.publish import MANIFEST, Manifest, verify
from gfm_pipeline.core.strenum import StrEnum
from gfm_pipeline.engine.decisions.decide import finished_stage, stage_names
from gfm_pipeline.engine.decisions.requests import Context, Step
from gfm_pipeline.engine.stages.table import stage_named


class Role(StrEnum):
    """Role of an artefact."""

    OUTPUT = "output"  # guaranteed output of a finished stage
    NEEDED = "needed"  # its unfinished stage may use it
    STEP = "step"  # an intermediate result; no longer needed
    SUPERSEDED = "superseded"  # made under earlier settings


@dataclass(frozen=True)
class Artefact:
    """A published folder in the journal."""

    stage: str
    key: str
    task: str
    folder: Path
    digest: str
    role: Role


def folder_of(paths: CampaignPaths, stage: StageState, task: str) -> Path | None:
    """Return the folder that a task of ``stage`` publishes; None if the stage's package is no longer installed."""
    known = stage_named(stage.stage)
    return None if known is None else known.folder_of(paths.stage(stage.stage, stage.key), task)


def artefacts(paths: CampaignPaths, state: CampaignState) -> Iterator[Artefact]:
    """Yield every artefact in the journal, stage by stage."""
    for stage in state.stages.values():
        promised = frozenset(output_tasks(stage))
        for name in stage.tasks:
            found = _artefact(paths, state, stage, name, promised)
            if found is not None:
                yield found


def _artefact(
    paths: CampaignPaths, state: CampaignState, stage: StageState, task: str, promised: Iterable[str]
) -> Artefact | None:
    digest, folder = _digest(stage.tasks.get(task)), folder_of(paths, stage, task)
    if digest is None or folder is None:
        return None
    if state.current.get(stage.stage) != stage.key:
        role = Role.SUPERSEDED
    elif stage.outputs is None:
        role = Role.NEEDED
    else:
        role = Role.OUTPUT if task in promised else Role.STEP
    return Artefact(stage.stage, stage.key, task, folder, digest, role)


def output_tasks(stage: StageState) -> list[str]:
    """Return the tasks that made the outputs of a finished stage."""
    known = stage_named(stage.stage)
    return [] if known is None or stage.outputs is None else known.output_tasks(stage)


def check(artefact: Artefact, *, digests: bool = False) -> Manifest | None:
    """Check an artefact against its manifest and the journal; return None for a missing artefact.

    Raises
    ------
    IntegrityError
        When the artefact differs from the published one.
    """
    if not (artefact.folder / MANIFEST).exists():
        return None
    manifest = verify(artefact.folder, digests=digests)
    if manifest.digest != artefact.digest:
        raise IntegrityError(f"{artefact.folder} is not what the journal says was published there.")
    return manifest


def refusal(artefact: Artefact, error: IntegrityError, campaign: Path) -> IntegrityError:
    """Return ``error`` with the fix for the artefact at fault."""
    if error.hint is not None:
        return error
    again = shlex.join(["gfm-pipeline", "resume", str(campaign)])
    return IntegrityError(
        error.message,
        f"Restore it, or remove the folder {artefact.folder} and run `{again}`: "
        f"{artefact.stage} makes it again (task {artefact.task}).",
    )


def lost_artefacts(context: Context, state: CampaignState, step: Step, slots: int) -> tuple[ArtefactLost, ...]:
    """Return the missing artefacts that ``step`` needs; checks sizes, not digests.

    These are the inputs of the tasks that it can start in ``slots``, and all outputs if nothing remains to do.

    Raises
    ------
    IntegrityError
        When an artefact differs from the published one.
    """
    wanted: dict[Path, Artefact] = {}
    if step.finished:
        for name in stage_names(context):
            stage = finished_stage(context, state, name)
            tasks = output_tasks(stage) if stage is not None else []
            wanted |= {a.folder: a for t in tasks if stage and (a := _artefact(context.paths, state, stage, t, tasks))}
    # Most tasks read the same datasets: remove duplicate names before any check.
    read = dict.fromkeys(name for request in step.tasks[:slots] for name in request.spec.inputs())
    folders = [Path(name) for name in read]
    wanted |= {f: a for f in folders if f not in wanted and (a := _made(context.paths, state, f))}
    return tuple(
        ArtefactLost(artefact.key, artefact.task, f"{artefact.folder} is gone")
        for artefact in wanted.values()
        if _is_gone(artefact, context.paths.root)
    )


def _is_gone(artefact: Artefact, campaign: Path) -> bool:
    try:
        return check(artefact) is None
    except IntegrityError as error:
        raise refusal(artefact, error, campaign) from error


def _made(paths: CampaignPaths, state: CampaignState, folder: Path) -> Artefact | None:
    """Return the artefact in ``folder``, if the journal has one."""
    for stage in state.stages.values():
        places = paths.stage(stage.stage, stage.key)
        known = stage_named(stage.stage)
        if known is not None and places.root in folder.parents:
            return _artefact(paths, state, stage, known.task_of(places, folder), ())
    return None


def inputs(spec: TaskSpec) -> Iterable[Path]:
    """Return the published folders a program reads."""
    return [Path(path) for path in spec.inputs()]


def _digest(task: TaskState | None) -> str | None:
    """Return the digest of a task's output; None if it is not done, or has no output (it diverged)."""
    if task is None or task.status is not TaskStatus.DONE or task.result is None:
        return None
    digest = task.result.get("digest")
    return None if digest is None else str(digest)
