"""The page of promises names tests that exist."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reliability.md").read_text()


def test_every_test_named_on_the_page_exists():
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)
    assert len(named) > 50
    known = {
        file: {n.name for n in ast.parse((ROOT / file).read_text()).body if isinstance(n, ast.FunctionDef)}
        for file in {file for file, _ in named}
    }
    assert [f"{file}::{test}" for file, test in named if test not in known[file]] == []
    assert len(re.findall(r"`benchmarks/(\w+\.py)`", PAGE)) == 1
    assert (ROOT / "benchmarks" / "journal.py").exists()


def test_every_promise_names_a_test():
    for promise in PAGE.split("\n### ")[1:]:
        rows = [line for line in promise.split("\n## ")[0].splitlines() if line.startswith("| ")][1:]
        assert rows
        assert [row for row in rows if not re.search(r"`(tests/.*::|benchmarks/)", row)] == []
