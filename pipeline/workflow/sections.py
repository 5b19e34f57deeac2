"""The schema of workflows, with sections for stages of other packages."""

from __future__ import annotations

from functools import cache
from typing import Any, Protocol

from pydantic import BaseModel, create_model

from gfm_pipeline.core.contracts.extensions import STAGES, Extensions, imported
from gfm_pipeline.workflow.resource_sections import ResourcesModel, SharedModel
from gfm_pipeline.workflow.schema import WorkflowModel


class StageSection(Protocol):
    """The facts of a stage that the schema needs; `gfm_pipeline.engine.stages.base.Stage` describes them."""

    name: str
    section: type[BaseModel] | str | None
    resources_section: type[BaseModel] | None


@cache
def workflow_model() -> type[WorkflowModel]:
    """Return the schema of workflows: that of this package, with a section for each stage of other packages.

    Raises
    ------
    ConfigError
        When a stage of another package cannot be loaded.
    """
    extensions = Extensions("stage", STAGES, object, {})
    found: list[Any] = [extensions.describe(name) for name in extensions.names()]
    stages: list[StageSection] = [stage for stage in found if getattr(stage, "section", None) is not None]
    if not stages:
        return WorkflowModel
    resources = create_model(
        "ResourcesModel",
        __base__=ResourcesModel,
        __doc__=ResourcesModel.__doc__,
        **{s.name: (s.resources_section or SharedModel, (s.resources_section or SharedModel)()) for s in stages},  # type: ignore[call-overload]
    )
    sections = {stage.name: (_section(stage) | None, None) for stage in stages}
    model: type[WorkflowModel] = create_model(
        "WorkflowModel",
        __base__=WorkflowModel,
        __doc__=WorkflowModel.__doc__,
        resources=(resources, resources()),
        **sections,  # type: ignore[call-overload]
    )
    return model


def _section(stage: StageSection) -> Any:
    """Return the pydantic model of a stage's section, which the stage may give as ``module:class``."""
    if isinstance(stage.section, str):
        return imported(f"The section of stage {stage.name}", stage.section)
    return stage.section
