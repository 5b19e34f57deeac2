"""`make bench`: every benchmark has its place on the page, and what it prints lands there."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


def program() -> ModuleType:
    """Return benchmarks/tables.py, under a name of its own: PyTables is called ``tables`` too."""
    spec = spec_from_file_location("benchmark_tables", ROOT / "benchmarks" / "tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tables = program()


def test_each_benchmark_is_a_file_and_has_one_pair_of_markers_with_a_table():
    page = tables.PAGE.read_text(encoding="utf-8")
    for name, benchmark in tables.BENCHMARKS.items():
        assert (ROOT / benchmark.command[0]).is_file()
        first, last = tables.marks(name)
        inside = page.split(first)[1].split(last)[0]
        assert len(inside.strip().splitlines()) > 3, name
        assert tables.replaced(page, name, "| a |") != page
    with pytest.raises(ValueError, match="one pair of markers for nothing"):
        tables.replaced(page, "nothing", "x")


def test_output_replaces_what_was_there_and_a_failure_leaves_it(tmp_path, monkeypatch, capsys):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- bench one -->\nold\n<!-- end one -->\nafter\n")
    monkeypatch.setattr(tables, "PAGE", page)
    one = tables.Benchmark(("-c", "print('| x |'); print('y  1')"))
    monkeypatch.setattr(tables, "BENCHMARKS", {"one": one, "bad": tables.Benchmark(("-c", "raise SystemExit(3)"))})
    monkeypatch.setattr(sys, "argv", ["tables.py"])
    assert tables.main() == 1
    assert page.read_text() == (
        f"before\n<!-- bench one -->\n\n| x |\n    y  1\n\n{tables.footer()}\n\n<!-- end one -->\nafter\n"
    )
    assert "bad failed; its table is as it was" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["tables.py", "onee"])
    monkeypatch.setattr(tables, "PACKAGES", ("numpy", "no-such-package"))
    assert tables.footer().endswith("no-such-package not installed.")
    with pytest.raises(SystemExit) as caught:
        tables.main()
    assert caught.value.code == 2
    assert "no benchmark 'onee'" in capsys.readouterr().err
