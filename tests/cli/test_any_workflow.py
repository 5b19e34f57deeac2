"""What `validate` accepts, `plan` accepts, and no command ever prints a traceback or the name of a class.

Workflows are drawn from the schema itself: a small valid one in which a few keys are replaced by values that their
schema allows (its bounds above all), or by values that it does not.
"""

from __future__ import annotations

import contextlib
import io
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML
from workflow_cases import VALID

from gfm_pipeline.cli.main import invoke
from gfm_pipeline.workflow.schema import WorkflowModel

SCHEMA = WorkflowModel.model_json_schema()
Key = tuple[str, ...]
ODD: list[Any] = [
    *(None, True, 0, -1, 1, 0.5, 1.5, 1e-300, 1e300, float("inf"), float("nan"), 10**30, 10**400, 1e9, 2**63),
    *("", "x", "auto", "\x1b[31m", "~nobody/x", "a\0b", "é", "2026-11-30", "PNA", "direct", "alloys"),
    *([], [1], [1, 1], ["a"], [[1]], {}, {"low": 1, "high": 2}, {"low": 2}, {"low": 1, "high": 9, "scale": "log"}),
    *({"a": 1}, {"PNA": {"options.sharpness": [2, 4]}}, {"EGNN": {"options.x": 2}}, [True, "x", None]),
]
OURS = ("Traceback", "Model", "function-", "pydantic", "constrained", "NoneType", "<class", "object at 0x")


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    return SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema


def keys_of(schema: dict[str, Any], at: Key = ()) -> dict[Key, dict[str, Any]]:
    """Return every key of the schema with its own; a mapping of any name has one name."""
    schema = resolved(schema)
    found: dict[Key, dict[str, Any]] = {}
    inner = dict(schema.get("properties", {}))
    if isinstance(schema.get("additionalProperties"), dict):
        inner.setdefault("alloys", schema["additionalProperties"])
    for name, value in inner.items():
        found[(*at, name)] = value
        found |= keys_of(value, (*at, name))
    for branch in schema.get("anyOf", []):
        found |= keys_of(branch, at)
    return found


KEYS = {key: schema for key, schema in keys_of(SCHEMA).items() if key[-1] not in ("low", "high", "scale")}
SECTIONS = {key[:n] for key in KEYS for n in range(1, len(key))}
LEAVES = sorted(key for key in KEYS if key not in SECTIONS and not {"PNA", "PaiNN"} & set(key))


def allowed(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Return values that the schema of a key allows, those at its bounds among them."""
    schema = resolved(schema)
    if "anyOf" in schema:
        return st.one_of([allowed(branch) for branch in schema["anyOf"]])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if "const" in schema:
        return st.just(schema["const"])
    low, high = schema.get("minimum", schema.get("exclusiveMinimum")), schema.get("maximum")
    high = schema.get("exclusiveMaximum", high)
    match schema.get("type"):
        case "integer":
            bounds = [bound for bound in (low, high) if bound is not None]
            return st.one_of(st.sampled_from([*bounds, 1, 2]), st.integers(int(low or 0), int(high or 10**6)))
        case "number":
            bounds = [bound for bound in (low, high, 1e-300, 0.1) if bound is not None]
            return st.one_of(st.sampled_from(bounds), st.floats(float(low or 0), float(high or 1e6)))
        case "array":
            return st.lists(allowed(schema.get("items", {"type": "integer"})), min_size=1, max_size=3)
        case "boolean":
            return st.booleans()
        case "null":
            return st.none()
        case "object" if "low" in schema.get("properties", {}):
            ends = st.tuples(*[allowed(schema["properties"]["low"])] * 2).map(sorted)
            return st.builds(
                lambda e, s: {"low": e[0], "high": e[1], "scale": s}, ends, st.sampled_from(["linear", "log"])
            )
    return st.sampled_from(["alloys", "emt-alloys", "SchNet", "PBE"])


@st.composite
def workflows(draw: st.DrawFn) -> dict[str, Any]:
    plain: dict[str, Any] = YAML(typ="safe", pure=True).load(VALID)
    nearly = draw(st.booleans())
    for key in draw(st.lists(st.sampled_from(sorted(KEYS) if nearly else LEAVES), min_size=1, max_size=4)):
        value = draw(st.sampled_from(ODD) if nearly and draw(st.booleans()) else allowed(KEYS[key]))
        node: Any = plain
        for part in key[:-1]:
            node = node.setdefault(part, {}) if isinstance(node, dict) else {}
        if isinstance(node, dict):
            node[key[-1]] = value
    return plain


def outcome(*arguments: str) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = invoke(list(arguments))
    return code, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tmp_path_factory.mktemp("any")


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(plain=workflows())
def test_what_validate_accepts_plan_accepts_and_no_traceback_is_printed(plain: dict[str, Any], folder: Any) -> None:
    path = folder / "w.yaml"
    with open(path, "w", encoding="utf-8") as stream:
        YAML(typ="safe", pure=True).dump(plain, stream)
    code, _, err = outcome("validate", str(path))
    assert code in (0, 2), err
    texts = [err]
    if code == 2:
        assert len(err.strip().splitlines()) == 1
        assert f"{path}" in err
        assert err.strip()[-1] in ".?)", err  # a fix follows the fault
    else:
        for command in (["plan", str(path), "--json"], ["plan", str(path)], ["why", str(path), "search"]):
            code, out, err = outcome(*command)
            assert code == 0, (command, err)
            texts.append(err)
            if "--json" in command:
                json.loads(out)
    text = "".join(texts)
    assert not [word for word in OURS if word in text], text
