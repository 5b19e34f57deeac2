"""`benchmarks/accuracy.py`: splits are read, a missing peer is named, results become the tables of docs/accuracy.md."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
accuracy: ModuleType = import_module("accuracy")
results: ModuleType = import_module("equal_cost.results")
splits: ModuleType = import_module("equal_cost.splits")
sys.path.remove(str(BENCHMARKS))

ROW = results.Result(
    "acac", "ours", "", "{}", 0, 60.0, 60.2, "gfm-pipeline 0", 10, 5, 80, 1.0, 0.8, 20.0, 15.0, "2026-11-30"
)  # fmt: skip


def molecules(n: int) -> list[Atoms]:
    """Return waters whose energy is a constant per element and a part of the structure's own."""
    rng = np.random.default_rng(0)
    found = []
    for k in range(n):
        atoms = Atoms("OH2" if k % 2 else "OH", rng.normal(size=(3 if k % 2 else 2, 3)))
        hydrogens = len(atoms) - 1
        energy = -2000.0 - 13.0 * hydrogens + 0.01 * (-1) ** (k // 2)
        values = {"energy": energy, "forces": rng.normal(size=(len(atoms), 3))}
        atoms.calc = SinglePointCalculator(atoms, **values)
        found.append(atoms)
    return found


def test_all_sides_get_the_same_files_without_the_energies_of_elements(tmp_path):
    every = molecules(60)
    chosen = splits.PublishedSplit("a split", lambda _: splits.Frames(every[:40], every[40:]))
    files = splits.write_split(chosen, tmp_path, tmp_path)
    read = {name: ase.io.read(path, ":") for name, path in files.items()}
    assert {name: len(part) for name, part in read.items()} == {"validation": 2, "train": 38, "test": 20}
    left = np.array([atoms.get_potential_energy() for atoms in read["test"]])
    np.testing.assert_allclose(np.abs(left), 0.01, atol=1e-6)
    np.testing.assert_allclose(read["test"][3].get_forces(), every[43].get_forces(), atol=1e-7)


@pytest.mark.skipif("GFM_REAL_DATA" not in os.environ, reason="GFM_REAL_DATA names no folder of real data")
def test_the_published_splits_have_their_sizes():
    sizes = {}
    for name, chosen in splits.SETS.items():
        frames = chosen.read(Path(os.environ["GFM_REAL_DATA"]))
        energy, forces = splits.labels(frames.test[-1])
        assert np.isfinite(energy)
        assert forces.shape == (len(frames.test[-1]), 3)
        sizes[name] = (len(frames.train), len(frames.test))
    assert sizes == {
        "acac": (500, 650), "3BPA": (500, 500), "ethanol": (1000, 1000), "Ni": (263, 31), "Cu": (262, 31),
        "Li": (241, 29), "water": (64, 16),
    }  # fmt: skip


def test_a_side_whose_package_is_missing_is_named_with_what_to_do():
    pythons = {"gfm_pipeline": sys.executable, "mace": None, "nequip": "/nowhere/python"}
    assert accuracy.missing_sides(["ours", "MACE L=0", "NequIP"], pythons) == {
        "MACE L=0": "mace is not installed; give --mace-python.",
        "NequIP": "/nowhere/python cannot be run.",
    }
    side = accuracy.Side("x", "no_such_package")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(accuracy.SIDES, "other", side)
        found = accuracy.missing_sides(["other"], {"no_such_package": sys.executable})
    assert found == {"other": f"{sys.executable} has no package no_such_package."}


def test_errors_are_per_atom_and_per_component():
    zeros = np.zeros((4, 3))
    found = results.errors([2, 2], np.array([0.002, -0.004]), zeros + np.array([0.003, 0.0, 0.0]), np.zeros(2), zeros)
    assert found["energy_mae"] == pytest.approx(1.5)
    assert found["energy_rmse"] == pytest.approx(np.sqrt(2.5))
    assert found["force_mae"] == pytest.approx(1.0)
    assert found["force_rmse"] == pytest.approx(np.sqrt(3.0))


def test_results_are_kept_and_become_the_tables(tmp_path):
    file, page = tmp_path / "accuracy.csv", tmp_path / "accuracy.md"
    peer = replace(ROW, side="MACE L=0", energy_rmse=2.0, force_rmse=16.0)
    trial = replace(ROW, variant="huber", settings='{"loss": "huber"}', energy_rmse=0.9)
    for row in (replace(ROW, energy_rmse=9.0), ROW, peer, trial):
        results.add_result(file, row)
    assert [r.energy_rmse for r in results.newest(results.read_results(file)).values()] == [1.0, 2.0, 0.9]
    marks = "\n".join(mark for pair in results.MARKS.values() for mark in pair)
    page.write_text(f"before\n{marks}\nafter\n", encoding="utf-8")
    accuracy.write_tables(file, page, {"NequIP": "It is away."})
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "| acac | **ours** | 60 | 80 | 1 | 0.8 | 20 | 15 |" in text
    assert "| acac | *published: MACE* | | | 0.06 | | 5.1 |" in text
    assert "| acac | 0.50 | 1.25 | **no** |" in text
    assert "| acac | 60 | huber | 80 | 0.9 | 20 |" in text
    assert "NequIP has no figures: It is away." in text


def test_the_page_has_the_tables_of_the_recorded_results():
    page = accuracy.PAGE.read_text(encoding="utf-8")
    rows = list(results.newest(results.read_results(accuracy.RESULTS)).values())
    for name, lines in (("figures", results.figures(rows, {})), ("ablation", results.ablation(rows))):
        assert results.replaced(page, name, lines) == page
