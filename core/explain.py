"""What pydantic found, as one sentence with a place and a fix."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticCustomError

from gfm_pipeline.core.errors import FileError
from gfm_pipeline.core.yamlfile import Location

UNKNOWN_NAME = "unknown_name"


@dataclass(frozen=True)
class Place:
    """Where a value was written: a file and a line, or the command line.

    ``prefix`` comes before the key in messages: ``--set `` for the command line.
    """

    path: Path | None
    line: int | None = None
    prefix: str = ""


def suggestion(value: str, options: Iterable[str]) -> str:
    """Return ``Did you mean ...? `` for the option nearest to ``value``; empty when none is near."""
    close = difflib.get_close_matches(value, list(options), n=1, cutoff=0.5)
    return f"Did you mean {close[0]!r}? " if close else ""


def unknown_name(what: str, value: str, options: Iterable[str]) -> PydanticCustomError:
    """Return the error of a validator that was given a name which refers to nothing.

    ``what`` is the key at fault; the message built from it is pointed at that key.
    """
    known = list(options)
    hint = f"{suggestion(value, known)}Choose from: {', '.join(known)}."
    # The context is filled into the template by pydantic, so that braces in names do no harm.
    context = {"what": what, "value": repr(value), "hint": hint}
    return PydanticCustomError(UNKNOWN_NAME, "{what} names {value}, which is not there", context)


def explain(
    error: ValidationError,
    model: type[BaseModel],
    plain: dict[str, Any],
    place: Callable[[Location], Place],
    kind: type[FileError],
) -> FileError:
    """Turn the first fault pydantic found in ``plain`` into one sentence with a place and a fix.

    ``place`` tells where the innermost known key on the way to a location was written.
    """
    faults = error.errors(include_url=False)
    # A wrong value under a union yields one fault a branch: the deepest one is the most specific.
    fault = next((f for f in faults if f["type"] == "extra_forbidden"), faults[0])
    keys = [tuple(part for part in f["loc"] if _is_key(plain, f["loc"], part)) for f in faults]
    where = keys[faults.index(fault)]
    others = len(set(keys)) - 1
    more = f" ({others} more fault(s).)" if others else ""
    given = json.dumps(fault.get("input"), default=str)
    given = given if len(given) < 60 else given[:57] + "..."
    context = fault.get("ctx", {})
    reason = fault["msg"].removeprefix("Value error, ")
    at_fault = where
    if fault["type"] in ("value_error", UNKNOWN_NAME):
        at_fault = _narrowed(plain, where, reason)  # the message of a validator begins with the key at fault
    found = place(at_fault)
    dotted = ".".join(str(part) for part in where)
    shown = f"{found.prefix}{dotted}".rstrip(" .")
    match fault["type"]:
        case "extra_forbidden":
            known = _fields_at(model, where[:-1])
            close = difflib.get_close_matches(str(where[-1]), known, n=1)
            hint = f"Did you mean {close[0]!r}?" if close else f"Known keys here: {', '.join(known)}."
            return kind(f"Unknown key {shown!r}.", found.path, found.line, hint)
        case "missing":
            missing = ".".join(map(str, fault["loc"]))
            return kind(f"The key {missing!r} is missing.", found.path, found.line, "Add it." + more)
        case "enum" | "literal_error":
            options = re.findall(r"'([^']+)'", context.get("expected", ""))
            hint = f"{suggestion(str(fault['input']), options)}Choose from: {', '.join(options)}."
            return kind(f"{shown} cannot be {given}.", found.path, found.line, hint)
        case "value_error" | "unknown_name":
            message = f"{shown + ': ' if shown else ''}{reason}."
            return kind(message, found.path, found.line, context.get("hint"))
    wanted = _wanted(fault["msg"])
    for other, at in zip(faults, keys, strict=True):
        if at == where and other["type"] == "literal_error":  # another branch of the same union
            wanted += f", or {other.get('ctx', {}).get('expected', '')}"
    return kind(f"{shown} is {given}, but {wanted}.", found.path, found.line, "Correct the value." + more)


def _wanted(message: str) -> str:
    """Return pydantic's words about a wrong value as the end of a sentence."""
    for start in ("Input should be ", "Value should be "):
        if message.startswith(start):
            return f"should be {message.removeprefix(start)}"
    return f"the {message[0].lower()}{message[1:]}".replace(" after validation", "")


def _narrowed(plain: Any, where: Location, reason: str) -> Location:
    """Return ``where`` with the keys the reason begins with (``inner.key ...``), as far as they are there."""
    node = plain
    for step in where:
        node = node[step]
    found = where
    for key in reason.partition(" ")[0].rstrip(":").split("."):
        if not isinstance(node, dict) or key not in node:
            break
        node, found = node[key], (*found, key)
    return found


def _is_key(plain: Any, location: Location, part: str | int) -> bool:
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
        else:  # a dict or list of models: one step is its key or index
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
