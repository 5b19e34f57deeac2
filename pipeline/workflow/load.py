"""Read a workflow file; every fault is one sentence with file, line and fix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from gfm_pipeline.core.errors import WorkflowError
from gfm_pipeline.core.explain import SourceLocation, explain
from gfm_pipeline.core.yamlfile import Location, YamlFile, put, read_setting, read_yaml
from gfm_pipeline.workflow.former_keys import present_location, with_present_keys
from gfm_pipeline.workflow.schema import WorkflowModel
from gfm_pipeline.workflow.sections import workflow_model


@dataclass(frozen=True)
class LoadedWorkflow:
    """A valid workflow: its file, its model, and the line of every key."""

    file: YamlFile
    model: WorkflowModel
    overridden: frozenset[Location]

    @property
    def path(self) -> Path:
        """The workflow file."""
        return self.file.path

    def place(self, *location: str | int) -> int | None:
        """Return the line of the innermost known key on the path to ``location``."""
        return self.file.line(location)

    def error(self, location: Location, message: str, hint: str | None = None) -> WorkflowError:
        """Return an error that names the place of a key in this file, or on the command line."""
        if any(location[: len(keys)] == keys for keys in self.overridden):
            return WorkflowError(f"--set {'.'.join(map(str, location))}: {message}", hint=hint)
        return WorkflowError(message, self.path, self.place(*location), hint)


def load_workflow(path: Path, overrides: Sequence[str] = (), kept: Path | None = None) -> LoadedWorkflow:
    """Read and check ``path``; ``overrides`` are ``a.b=value`` strings that override the file.

    ``kept`` is a copy to read instead; relative paths in the workflow still begin at the folder of ``path``.

    Raises
    ------
    WorkflowError
        When the file is missing, not YAML, or does not fit the schema.
    """
    file = read_yaml(
        kept or path,
        "workflow",
        WorkflowError,
        missing="Give its path as the first argument.",
        example="Start from the workflow.yaml of the examples.",
    )
    file = with_present_keys(replace(file, path=path))
    overridden: set[Location] = set()
    for text in overrides:
        given, value = read_setting(text, "search.candidates=8", WorkflowError)
        keys = tuple(map(str, present_location(given)))
        put(file.data, keys, value, text, WorkflowError)
        overridden.add(keys)

    def place(location: Location) -> SourceLocation:
        if any(location[: len(keys)] == keys for keys in overridden):
            return SourceLocation(None, prefix="--set ")
        return SourceLocation(path, file.line(location))

    schema = workflow_model()
    try:
        model = schema.model_validate(file.data)
    except ValidationError as error:
        raise explain(error, schema, file.data, place, WorkflowError) from None
    return LoadedWorkflow(file, model, frozenset(overridden))
