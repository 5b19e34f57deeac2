"""All stages, in the order of execution. The engine handles stages by loops over this table."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING

from gfm_pipeline.core.contracts.extensions import STAGES, Extensions
from gfm_pipeline.core.errors import ConfigError
from gfm_pipeline.engine.stages.base import Stage
from gfm_pipeline.engine.stages.calibrate import Calibrate
from gfm_pipeline.engine.stages.converge import Converge
from gfm_pipeline.engine.stages.ingest import Ingest
from gfm_pipeline.engine.stages.search import Search

if TYPE_CHECKING:
    from gfm_pipeline.workflow.schema import WorkflowModel

BUILT_IN: tuple[Stage, ...] = (Ingest(), Search(), Converge(), Calibrate())
NAMES = tuple(stage.name for stage in BUILT_IN)
EXTENSIONS = Extensions("stage", STAGES, Stage, {stage.name: stage for stage in BUILT_IN})


@cache
def all_stages() -> tuple[Stage, ...]:
    """Return every installed stage, each after the stage in its ``after``.

    Raises
    ------
    ConfigError
        When a stage of another package cannot be loaded, has another name than its entry point, or follows no stage.
    """
    order = list(BUILT_IN)
    waiting = {name: EXTENSIONS.describe(name) for name in EXTENSIONS.names() if name not in NAMES}
    for name, stage in waiting.items():
        if stage.name != name:
            raise ConfigError(f"The entry point of stage {stage.name!r} is {name!r}.", "Give both the same name.")
    while waiting:
        known = [stage.name for stage in order]
        placed = next((stage for stage in waiting.values() if stage.after in known), None)
        if placed is None:
            name, stage = next(iter(waiting.items()))
            raise ConfigError(
                f"Stage {name!r} follows {stage.after!r}, which is not a stage.", f"Name one of {', '.join(known)}."
            )
        order.insert(known.index(placed.after) + 1, waiting.pop(placed.name))
    return tuple(order)


def stages_of(workflow: WorkflowModel) -> tuple[Stage, ...]:
    """Return the stages of a campaign: those that always run, and those with a section in the workflow."""
    return tuple(s for s in all_stages() if not s.optional or getattr(workflow, s.name, None) is not None)


def shown(names: Iterable[str]) -> tuple[Stage, ...]:
    """Return the stages that status and report show: those that always run, and those in the journal."""
    known = frozenset(names)
    return tuple(s for s in all_stages() if not s.optional or s.name in known)


def stage_named(name: str) -> Stage | None:
    """Return a stage by its name; None when no installed package has it."""
    return next((stage for stage in all_stages() if stage.name == name), None)
