"""Converts an error of pydantic to one sentence with a place and a fix."""

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

from gfm_pipeline.core.errors import FileError, Refused
from gfm_pipeline.core.strict import NAME, WITHOUT_NULL
from gfm_pipeline.core.yamlfile import Location

UNKNOWN_NAME = "unknown_name"


@dataclass(frozen=True)
class SourceLocation:
    """Where a value was written: a file and a line, or the command line.

    ``prefix`` comes before the key in messages: ``--set`` and a space for the command line.
    """

    path: Path | None
    line: int | None = None
    prefix: str = ""


def suggestion(value: str, options: Iterable[str]) -> str:
    """Return ``Did you mean ...? `` for the option nearest to ``value``; empty when none is near."""
    close = difflib.get_close_matches(value, list(options), n=1, cutoff=0.5)
    return f"Did you mean {close[0]!r}? " if close else ""


def unknown_name(what: str, value: str, options: Iterable[str]) -> PydanticCustomError:
    """Return the error of a validator for a name that refers to nothing.

    ``what`` is the key at fault; the message points at that key.
    """
    known = list(options)
    hint = f"{suggestion(value, known)}Choose from: {', '.join(known)}."
    # pydantic fills the context into the template, so that braces in names do no harm.
    context = {"what": what, "value": repr(value), "hint": hint}
    return PydanticCustomError(UNKNOWN_NAME, "{what} names {value}, which is not there", context)


def explain(
    error: ValidationError,
    model: type[BaseModel],
    plain: dict[str, Any],
    place: Callable[[Location], SourceLocation],
    kind: type[FileError],
) -> FileError:
    """Convert pydantic's first fault in ``plain`` to one sentence with a place and a fix.

    ``place`` returns where the innermost known key on the way to a location was written.
    """
    faults: list[Any] = error.errors(include_url=False)
    # A wrong value under a union yields one fault per branch: the deepest one is the most specific.
    fault = next((f for f in faults if f["type"] == "extra_forbidden"), faults[0])
    keys = [tuple(part for part in f["loc"] if _is_key(plain, f["loc"], part)) for f in faults]
    where = keys[faults.index(fault)]
    others = len(set(keys)) - 1
    more = f" ({others} more fault(s).)" if others else ""
    cause = fault.get("ctx", {}).get("error")
    if isinstance(cause, Refused):
        return _refused(cause, (*where, *cause.at), place, kind, more)
    reason = fault["msg"].removeprefix("Value error, ").rstrip(".")
    at_fault = where
    if fault["type"] in ("value_error", UNKNOWN_NAME):
        at_fault = _narrowed(plain, where, reason)  # the message of a validator begins with the key at fault
    found = place(at_fault)
    shown = _dotted(found, where)
    match fault["type"]:
        case "extra_forbidden":
            known = _fields_at(model, where[:-1])
            close = difflib.get_close_matches(str(where[-1]), known, n=1)
            hint = f"Did you mean {close[0]!r}?" if close else f"Known keys here: {', '.join(known)}."
            return kind(f"Unknown key {shown!r}.", found.path, found.line, hint)
        case "missing":
            if isinstance(fault["loc"][-1], int):  # of a list with a fixed number of values
                hint = "Write all its values in brackets." + more
                of = where[:-1] if isinstance(where[-1], int) else where
                return kind(f"{_dotted(found, of)} has too few values.", found.path, found.line, hint)
            instead = "".join(f", or write {name} in its place" for name in _instead(model, where))
            return kind(f"The key {shown!r} is missing.", found.path, found.line, f"Add it{instead}." + more)
        case "enum" | "literal_error" if not any(_same(f, k, where) for f, k in zip(faults, keys, strict=True)):
            options = _expected(fault)
            hint = f"{suggestion(str(fault['input']), options)}Choose from: {', '.join(options)}."
            return kind(f"{shown} cannot be {short(fault.get('input'))}.", found.path, found.line, hint)
        case "value_error" | "unknown_name":
            hint = fault.get("ctx", {}).get("hint") or "Correct the value."
            return kind(f"{shown + ': ' if shown else ''}{reason}.", found.path, found.line, hint + more)
    expected = list(dict.fromkeys(expected_text(f) for f, k in zip(faults, keys, strict=True) if k == where))
    message = f"{shown} is {short(fault.get('input'))}, but should be {', or '.join(expected)}."
    return kind(message, found.path, found.line, "Correct the value." + more)


def _refused(
    cause: Refused, where: Location, place: Callable[[Location], SourceLocation], kind: type[FileError], more: str
) -> FileError:
    found = place(where)
    return kind(f"{_dotted(found, where)}: {cause.message}.", found.path, found.line, (cause.hint or "") + more or None)


def _dotted(found: SourceLocation, where: Location) -> str:
    return f"{found.prefix}{'.'.join(str(part) for part in where)}".rstrip(" .")


def _same(fault: Any, keys: Location, where: Location) -> bool:
    """Return whether pydantic tried a union branch other than a list of names at the same place."""
    return keys == where and fault["type"] not in ("enum", "literal_error")


def _expected(fault: Any) -> list[str]:
    expected = fault.get("ctx", {}).get("expected", "")
    return re.findall(r"'([^']+)'", expected) or [expected]


def short(value: Any) -> str:
    """Return a value as text for a message: JSON, at most 60 characters."""
    if isinstance(value, int) and value.bit_length() > 1000:
        return "a number of hundreds of digits"
    try:
        text = json.dumps(value, default=str, ensure_ascii=False)
    except (ValueError, RecursionError):  # endless or too deep nesting
        return "a value nested too deeply"
    return text if len(text) < 60 else text[:57] + "..."


_FORMS = {  # pydantic's requirement, by the type of its fault, in words of the file
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number of fewer digits",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
    "dict_type": "a mapping of keys to values",
    "mapping_type": "a mapping of keys to values",
    "model_type": "a mapping of keys to values",
    "model_attributes_type": "a mapping of keys to values",
    "none_required": "null",
    "greater_than": "above {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "below {lt}",
    "less_than_equal": "at most {le}",
    "too_short": "a list or mapping of at least {min_length}",
    "too_long": "a list or mapping of at most {max_length}",
    "string_too_short": "text of at least {min_length} character(s)",
    "string_too_long": "text of at most {max_length} characters",
    "string_pattern_mismatch": "text of the form {pattern}",
    "enum": "{expected}",
    "literal_error": "{expected}",
}


_PATTERNS = {
    NAME: "text of letters, digits, _, . and -, with a letter or a digit first",
    WITHOUT_NULL: "text without null characters",
}


def expected_text(fault: Any) -> str:
    """Return the requirement behind a fault of pydantic (an entry of its ``errors()``), as the end of a sentence.

    It contains no class name.
    """
    form = _FORMS.get(fault["type"])
    if form is None:
        return "of another form"
    if fault["type"] == "too_long" and "max_length" not in fault.get("ctx", {}):
        return "a shorter list"
    context = fault.get("ctx", {})
    return _PATTERNS.get(context.get("pattern", "")) or form.format_map(context)


def _narrowed(plain: Any, where: Location, reason: str) -> Location:
    """Return ``where`` extended by the keys that begin the reason (``inner.key ...``), as far as they exist."""
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
        re.match(r"(constrained-|list\[|function-|literal\[|nullable\[|(float|int|str|enum)$)", step)
    )


def _instead(model: type[BaseModel], location: Location) -> list[str]:
    """Return the keys of the whole file that its schema accepts in place of a missing one."""
    choices = model.model_json_schema().get("anyOf", ())
    names = [name for choice in choices for name in choice.get("required", ())]
    return [name for name in names if name != location[0]] if len(location) == 1 and location[0] in names else []


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
