"""Read a workflow file; every fault is one sentence with file, line and fix."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from gfm_pipeline.common.errors import WorkflowError
from gfm_pipeline.workflow.schema import WorkflowModel

Location = tuple[str | int, ...]


@dataclass(frozen=True)
class LoadedWorkflow:
    """A valid workflow: where it came from, its model, and the line of every key."""

    path: Path
    model: WorkflowModel
    lines: dict[Location, int]
    overridden: frozenset[Location]

    def place(self, *location: str | int) -> int | None:
        """Return the line of the innermost known key on the way to ``location``."""
        return _line(self.lines, location)

    def error(self, location: Location, message: str, hint: str | None = None) -> WorkflowError:
        """Return an error that points at a key of this file."""
        return WorkflowError(message, self.path, self.place(*location), hint)


def load_workflow(path: Path, overrides: Sequence[str] = ()) -> LoadedWorkflow:
    """Read and check ``path``; ``overrides`` are ``a.b=value`` strings that win over the file.

    Raises
    ------
    WorkflowError
        When the file is missing, not YAML, or does not fit the schema.
    """
    plain, lines = _parse(path)
    overridden = frozenset(_override(plain, text) for text in overrides)
    try:
        model = WorkflowModel.model_validate(plain)
    except ValidationError as error:
        raise _explain(error, plain, path, lines, overridden) from None
    return LoadedWorkflow(path, model, lines, overridden)


def _parse(path: Path) -> tuple[dict[str, Any], dict[Location, int]]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise WorkflowError(f"There is no workflow file {path}.", hint="Give its path as the first argument.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise WorkflowError(f"The workflow file {path} cannot be read ({error}).") from error
    try:
        document = YAML(typ="rt", pure=True).load(text)
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        problem = re.sub(r"\s+", " ", error.problem or "not YAML").strip()
        raise WorkflowError(
            f"This is not valid YAML: {problem}.", path, line, "Check indentation and colons."
        ) from None
    except YAMLError as error:
        raise WorkflowError(f"This is not valid YAML: {str(error).splitlines()[0]}.", path) from None
    if not isinstance(document, CommentedMap):
        raise WorkflowError(
            "A workflow is a mapping of keys.", path, 1, "Start from the workflow.yaml of the examples."
        )
    lines: dict[Location, int] = {}
    return _plain(document, (), lines), lines


def _plain(node: Any, at: Location, lines: dict[Location, int]) -> Any:
    """Return ``node`` as plain Python, noting the line of each key."""
    if isinstance(node, CommentedMap):
        for key in node:
            lines[(*at, str(key))] = node.lc.key(key)[0] + 1
        return {str(key): _plain(value, (*at, str(key)), lines) for key, value in node.items()}
    if isinstance(node, CommentedSeq):
        for index in range(len(node)):
            lines[(*at, index)] = node.lc.item(index)[0] + 1
        return [_plain(value, (*at, index), lines) for index, value in enumerate(node)]
    if isinstance(node, bool) or node is None:
        return node
    for scalar in (int, float, str):
        if isinstance(node, scalar):
            return scalar(node)
    return str(node)


def _override(plain: dict[str, Any], text: str) -> Location:
    """Set one ``a.b=value`` in ``plain`` and return where."""
    name, equals, value = text.partition("=")
    keys = tuple(name.strip().split("."))
    if not equals or not all(keys):
        raise WorkflowError(
            f"--set {text!r} is not of the form key.inner=value.", hint="Example: --set search.candidates=8"
        )
    try:
        parsed = _plain(YAML(typ="rt", pure=True).load(value), (), {})
    except YAMLError:
        parsed = value
    target = plain
    for key in keys[:-1]:
        inner = target.setdefault(key, {})
        if not isinstance(inner, dict):
            raise WorkflowError(f"--set {text!r}: {key} holds a value, not keys.")
        target = inner
    target[keys[-1]] = parsed
    return keys


def _line(lines: dict[Location, int], location: Location) -> int | None:
    for length in range(len(location), 0, -1):
        if (found := lines.get(location[:length])) is not None:
            return found
    return None


def _explain(
    error: ValidationError,
    plain: dict[str, Any],
    path: Path,
    lines: dict[Location, int],
    overridden: frozenset[Location],
) -> WorkflowError:
    """Turn the first fault pydantic found into one sentence with a place and a fix."""
    faults = error.errors(include_url=False)
    # A wrong value under a union yields one fault a branch: the deepest one is the most specific.
    fault = next((f for f in faults if f["type"] == "extra_forbidden"), faults[0])
    where = tuple(part for part in fault["loc"] if _is_key(plain, fault["loc"], part))
    dotted = ".".join(str(part) for part in where)
    more = f" ({len({f['loc'] for f in faults}) - 1} more fault(s) in the file.)" if len(faults) > 1 else ""
    origin: Path | None = path
    if any(where[: len(o)] == o for o in overridden):
        origin = None
        dotted = f"--set {dotted}"
    line = _line(lines, where) if origin else None
    given = json.dumps(fault.get("input"), default=str)
    given = given if len(given) < 60 else given[:57] + "..."
    match fault["type"]:
        case "extra_forbidden":
            known = _fields_at(WorkflowModel, where[:-1])
            close = difflib.get_close_matches(str(where[-1]), known, n=1)
            hint = f"Did you mean {close[0]!r}?" if close else f"Known keys here: {', '.join(known)}."
            return WorkflowError(f"Unknown key {dotted!r}.", origin, line, hint)
        case "missing":
            return WorkflowError(
                f"The key {'.'.join(map(str, fault['loc']))!r} is missing.", origin, line, "Add it." + more
            )
        case "enum" | "literal_error":
            expected = fault.get("ctx", {}).get("expected", "")
            options = re.findall(r"'([^']+)'", expected)
            close = difflib.get_close_matches(str(fault["input"]), options, n=1, cutoff=0.5)
            hint = (f"Did you mean {close[0]!r}? " if close else "") + f"Choose from: {', '.join(options)}."
            return WorkflowError(f"{dotted} cannot be {given}.", origin, line, hint)
        case "value_error":
            reason = fault["msg"].removeprefix("Value error, ")
            return WorkflowError(f"{dotted + ': ' if dotted else ''}{reason}.", origin, line)
    wanted = fault["msg"].removeprefix("Input should be ").removeprefix("Value should be ")
    return WorkflowError(f"{dotted} is {given}, but should be {wanted}.", origin, line, "Correct the value." + more)


def _is_key(plain: Any, location: tuple[str | int, ...], part: str | int) -> bool:
    """Return whether ``part`` of a pydantic location is a key of the file (not a union branch's name)."""
    node = plain
    for step in location:
        found = (isinstance(node, dict) and step in node) or (
            isinstance(node, list) and isinstance(step, int) and step < len(node)
        )
        if step is part:
            return found or (
                isinstance(node, dict) and step is location[-1] and step not in ("[key]",) and not _branch(step)
            )
        if found:
            node = node[step]
    return False


def _branch(step: str | int) -> bool:
    """Return whether a location step is the name pydantic gives a union branch."""
    return isinstance(step, str) and bool(
        re.match(r"(RangeModel|list\[|function|float|int|str|literal|enum|nullable)", step)
    )


def _fields_at(model: type[BaseModel], location: Location) -> list[str]:
    """Return the field names of the model at ``location`` of the schema."""
    current: Any = model
    for step in location:
        if isinstance(current, type) and issubclass(current, BaseModel):
            current = current.model_fields[str(step)].annotation if str(step) in current.model_fields else None
        else:  # a dict of models: one step is its key
            arguments = getattr(current, "__args__", ())
            current = arguments[-1] if arguments else None
    if isinstance(current, type) and issubclass(current, BaseModel):
        return list(current.model_fields)
    return [
        name
        for part in getattr(current, "__args__", ())
        if isinstance(part, type) and issubclass(part, BaseModel)
        for name in part.model_fields
    ]
