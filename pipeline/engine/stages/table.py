"""All stages, in the order they run. What the engine does with stages, it does by looping over these."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

from gfm_pipeline.core.errors import ConfigError
from gfm_pipeline.engine.stages.base import Stage
from gfm_pipeline.engine.stages.calibrate import Calibrate
from gfm_pipeline.engine.stages.converge import Converge
from gfm_pipeline.engine.stages.ingest import Ingest
from gfm_pipeline.engine.stages.search import Search

if TYPE_CHECKING:
    from gfm_pipeline.workflow.schema import WorkflowModel

ENTRY_POINTS = "gfm_pipeline.stages"
BUILT_IN: tuple[Stage, ...] = (Ingest(), Search(), Converge(), Calibrate())
NAMES = tuple(stage.name for stage in BUILT_IN)


@cache
def all_stages() -> tuple[Stage, ...]:
    """Return every stage that is installed, each after the one it names in ``after``.

    Raises
    ------
    ConfigError
        When a stage of another package cannot be loaded, has the name of another one, or follows none.
    """
    order = list(BUILT_IN)
    waiting = [_load(point) for point in sorted(entry_points(group=ENTRY_POINTS), key=lambda point: point.name)]
    while waiting:
        placed = next((s for s in waiting if any(s.after == known.name for known in order)), None)
        if placed is None:
            raise ConfigError(
                f"Stage {waiting[0].name!r} follows {waiting[0].after!r}, which is no stage.",
                f"Name one of {', '.join(s.name for s in order)} in `after`.",
            )
        waiting.remove(placed)
        if any(placed.name == known.name for known in order):
            raise ConfigError(f"There are two stages of the name {placed.name!r}.", "Uninstall one of the packages.")
        order.insert(next(i for i, known in enumerate(order) if known.name == placed.after) + 1, placed)
    return tuple(order)


def _load(point: EntryPoint) -> Stage:
    package = point.value if point.dist is None else str(point.dist.name)
    try:
        found = point.load()
    except Exception as error:
        raise ConfigError(
            f"Stage {point.name!r} of package {package} cannot be imported: {error}.",
            "Install what it needs, correct its entry point, or uninstall it.",
        ) from error
    stage = found() if isinstance(found, type) else found
    if not isinstance(stage, Stage):
        raise ConfigError(
            f"Stage {point.name!r} of package {package}: {point.value} is no Stage.",
            f"The entry point must name one (group {ENTRY_POINTS}).",
        )
    return stage


def stages_of(workflow: WorkflowModel) -> tuple[Stage, ...]:
    """Return the stages of a campaign: those that always run, and those whose section the workflow has."""
    return tuple(s for s in all_stages() if not s.optional or getattr(workflow, s.name, None) is not None)


def shown(names: Iterable[str]) -> tuple[Stage, ...]:
    """Return the stages that status and report show: those that always run, and those a journal names."""
    known = frozenset(names)
    return tuple(s for s in all_stages() if not s.optional or s.name in known)


def stage_named(name: str) -> Stage | None:
    """Return a stage by its name; None when no installed package has it (any more)."""
    return next((stage for stage in all_stages() if stage.name == name), None)
