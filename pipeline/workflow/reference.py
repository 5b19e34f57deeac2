"""Writes the page that explains every key of a workflow file from the schema: ``python -m`` prints it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import click

from gfm_pipeline.workflow.sections import workflow_model

HEAD = """\
# Every key of a workflow file

Written from the schema by `python -m gfm_pipeline.workflow.reference`; a test holds that it is up to date. An indented
key lies within the one above it; `NAME` stands for a name of yours. Options of a reader are in [data.md](data.md).
`gfm-pipeline schema` prints the same for editors.
"""
NAME = "NAME"  # for names of the user's choice, e.g. of a source
OWN = "search.space.per_algorithm"  # its groups repeat `SHARED` and add keys of one algorithm
SHARED = "SpaceModel"


def page() -> str:
    """Return the page as Markdown."""
    schema = workflow_model().model_json_schema()
    return "\n".join([HEAD, *_sections(schema, schema, "")]) + "\n"


def _sections(schema: dict[str, Any], model: dict[str, Any], at: str) -> Iterator[str]:
    """Yield a section for a group of keys, then one for each group within it."""
    inner: list[tuple[str, dict[str, Any]]] = []
    required = model.get("required", [])
    yield f"## {f'`{at}`' if at else 'The file'}\n"
    yield f"{_sentence(model)}\n"
    yield "| key | takes | default | |\n|---|---|---|---|"
    shared = schema["$defs"][SHARED]["properties"] if at.startswith(f"{OWN}.") else {}
    for key, field in model["properties"].items():
        if key in shared:
            continue
        place = f"{at}.{key}" if at else key
        group = _group(schema, field)
        of_names = [field.get("additionalProperties"), *field.get("patternProperties", {}).values()]
        of_names += [one for named in of_names if isinstance(named, dict) for one in named.get("anyOf", [])]
        named = None if group else next(filter(None, (_group(schema, one) for one in of_names)), None)
        if group is not None or named is not None:
            inner.append((place if group else f"{place}.{NAME}", group or named or {}))
            text, takes, default = f"see `{inner[-1][0]}`", "keys", "required" if key in required else ""
        else:
            text, takes = field.get("description", ""), _takes(schema, field)
            default = (
                "required" if key in required else f"`{json.dumps(field['default'])}`" if "default" in field else ""
            )
        yield f"| `{key}` | {_cell(takes)} | {_cell(default)} | {_cell(text)} |"
    yield ""
    for place, group in inner:
        yield from _sections(schema, group, place)


def _sentence(model: dict[str, Any]) -> str:
    if "description" not in model:
        return "All keys of `search.space`, and those of the algorithm's own:"
    return str(model.get("description", "")).split("\n\n")[0].replace("\n", " ")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _group(schema: dict[str, Any], field: Any) -> dict[str, Any] | None:
    """Return the keys within a key, or None when the key holds a value."""
    found = _resolved(schema, field) if isinstance(field, dict) else {}
    choices = [one for one in found.get("anyOf", ()) if one != {"type": "null"}]
    if len(choices) == 1 and "anyOf" in found:  # keys that may be left out as a whole
        found = _resolved(schema, choices[0])
    return found if "properties" in found and "anyOf" not in found else None


def _resolved(schema: dict[str, Any], field: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in field:
        return field
    found: dict[str, Any] = schema["$defs"][field["$ref"].rpartition("/")[2]]
    return found


BOUNDS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
KINDS = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true or false", "null": "null"}


def _takes(schema: dict[str, Any], field: dict[str, Any]) -> str:
    """Return the possible values of a key, in words."""
    field = _resolved(schema, field)
    if "anyOf" in field:
        return ", or ".join(dict.fromkeys(_takes(schema, one) for one in field["anyOf"]))
    if "enum" in field or "const" in field:
        return ", ".join(f"`{value}`" for value in field.get("enum", [field.get("const")]))
    kind = field.get("type", "anything")
    if kind == "array":
        items = field.get("items")
        return f"list: {_takes(schema, items)}" if isinstance(items, dict) and items else "list"
    if kind == "object":
        keys = ", ".join(f"`{key}`" for key in field.get("properties", {}))
        return f"keys {keys}" if keys else "keys of your own"
    bounds = " and ".join(f"{words} {_number(field[name])}" for name, words in BOUNDS.items() if name in field)
    return f"{KINDS.get(kind, kind)} {bounds}".strip()


def _number(value: float) -> str:
    return f"{value:,}" if value == int(value) and value < 1e10 and isinstance(value, int) else f"{value:g}"


if __name__ == "__main__":
    click.echo(page(), nl=False)
