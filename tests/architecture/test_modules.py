"""The shape of the code: modules of one job, folders that one can take in, and names that mean one thing."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOPS = ("core", "models", "sites", "apps", "pipeline")
MODULES = sorted(path for top in TOPS for path in (ROOT / top).rglob("*.py"))
BESIDE = ("tests", "benchmarks")  # what is not installed has the same limit of length
LONGEST, SHORTEST, WIDEST = 350, 20, 20
SHORT = {  # modules below the shortest, and why
    "apps/contracts": "old names of modules",
    "apps/program.py": "the old name of a module",
    "__main__.py": "what `python -m` starts",
    "apps/deploy/export.py": "a program of its own, started by `python -m`",
    "apps/runtime/parsl_environment.py": "read by programs that must not import Parsl",
    "core/version.py": "read by the build",
    "models/message_passing/pnaplus.py": "an algorithm is one file",
}
SAME_NAME: dict[str, str] = {}  # class names that more than one module may define, and why
# Words of a private vocabulary; the field's are all_reduce, broadcast, observations, requests, poll, heartbeat, ...
PRIVATE = {"told", "asked", "said", "seen", "say", "meet", "attend", "feed", "beat", "surroundings", "looks", "heard"}
KEPT = {  # where one of them stays, and why
    ("pipeline/campaign/events.py", "told"): "a field of an event in recorded journals",
    ("apps/runtime/program.py", "beat"): "an old name that programs of other packages call",
}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def classes(path: Path) -> Iterator[str]:
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            yield node.name.lstrip("_")


def bound_names(path: Path) -> Iterator[str]:
    """Yield what a module gives names to: functions, classes, parameters, variables and attributes."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.arg(arg=name):
                yield name
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield name


def test_there_are_modules_to_look_at():
    assert len(MODULES) > 300


@pytest.mark.parametrize("top", TOPS + BESIDE)
def test_no_module_is_too_long(top):
    lines = {name_of(p): len(p.read_text(encoding="utf-8").splitlines()) for p in (ROOT / top).rglob("*.py")}
    assert lines
    assert {name: n for name, n in lines.items() if n > LONGEST} == {}


def test_a_short_module_has_a_reason():
    short = [
        name_of(path)
        for path in MODULES
        if path.name != "__init__.py" and len(path.read_text(encoding="utf-8").splitlines()) < SHORTEST
    ]
    without = [name for name in short if not any(name.startswith(w) or name.endswith(f"/{w}") for w in SHORT)]
    assert without == []


def test_no_folder_is_too_wide():
    folders: dict[str, int] = defaultdict(int)
    for path in MODULES:
        folders[name_of(path.parent)] += path.name != "__init__.py"
    assert {folder: n for folder, n in folders.items() if n > WIDEST} == {}


def test_a_class_name_means_one_thing():
    found: dict[str, list[str]] = defaultdict(list)
    for path in MODULES:
        for name in classes(path):
            found[name].append(name_of(path))
    assert {name: where for name, where in found.items() if len(where) > 1 and name not in SAME_NAME} == {}


def test_names_are_those_of_the_field():
    found = {
        (name_of(path), name)
        for path in MODULES
        for name in bound_names(path)
        if PRIVATE & set(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower().split("_"))
    }
    assert found - set(KEPT) == set()
    assert set(KEPT) <= found, "remove what is not there any more"


def test_no_two_test_modules_have_the_same_name():
    found: dict[str, list[str]] = defaultdict(list)
    for path in (ROOT / "tests").rglob("test_*.py"):
        if "fixtures" not in path.parts:
            found[path.name].append(name_of(path))
    assert {name: where for name, where in found.items() if len(where) > 1} == {}
