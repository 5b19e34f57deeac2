"""Ingest: readers, quarantine, units, options, and real data."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.build import molecule
from ase.db import connect
from ase.io import write
from ingest_cases import ALLOYS, all_columns, assert_labels, labelled, only_shard, run_all, run_read
from pymatgen.core import DummySpecies, Lattice, Structure
from pymatgen.core import Molecule as PymatgenMolecule
from pymatgen.entries.computed_entries import ComputedStructureEntry

from gfm_pipeline.apps.ingest.assembly.shard import read_shard
from gfm_pipeline.core.contracts.data import SourceSettings

# --- readers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["frames.extxyz", "frames.traj", "frames.db"])
def test_ase_formats_give_the_same_records(tmp_path: Path, name: str) -> None:
    frames = labelled()
    path = tmp_path / name
    if name.endswith(".db"):
        with connect(path) as database:
            for atoms in frames:
                database.write(atoms, run=atoms.info["run"])
    else:
        write(path, frames)
    source = SourceSettings("mixed", "ase", (str(path),), group_key="run")
    shard, bad = only_shard(tmp_path / "out", source)
    assert bad == []
    assert_labels(shard, frames)
    assert shard.groups.tolist() == ["run0", "run1", "run2", "run3"] * 3


def test_other_ase_format(tmp_path: Path) -> None:
    frames = labelled(2)[1:]
    write(tmp_path / "frames.json", frames)
    source = SourceSettings("one", "ase", (str(tmp_path / "frames.json"),))
    assert_labels(only_shard(tmp_path / "out", source)[0], frames)
    (tmp_path / "frames.unheard").write_text("nothing that ASE knows\n")
    both = replace(source, files=(str(tmp_path / "frames.unheard"), str(tmp_path / "frames.json")))
    shard, (bad,) = only_shard(tmp_path / "both", both)
    assert_labels(shard, frames)
    assert bad.file == both.files[0]
    assert "does not know the type" in bad.reason


def test_label_names(tmp_path: Path) -> None:
    atoms = molecule("H2O")
    atoms.info["ref_energy"] = -5.0
    atoms.arrays["ref_forces"] = np.full((3, 3), 0.25)
    julip = molecule("H2O")
    julip.info["energy"] = -6.0
    julip.arrays["force"] = np.full((3, 3), 0.5)
    write(tmp_path / "a.extxyz", atoms)
    write(tmp_path / "b.extxyz", julip)
    source = SourceSettings(
        "water", "ase", (str(tmp_path / "a.extxyz"),), energy_key="ref_energy", forces_key="ref_forces"
    )
    shard, _ = only_shard(tmp_path / "named", source)
    assert shard.energy.tolist() == [-5.0]
    assert (shard.forces == 0.25).all()
    default = SourceSettings("water", "ase", (str(tmp_path / "b.extxyz"),))
    shard, _ = only_shard(tmp_path / "julip", default)
    assert shard.energy.tolist() == [-6.0]
    assert (shard.forces == 0.5).all()
    assert shard.groups.tolist() == ["H2O1"]
    wrong = replace(source, energy_key="nothing")
    _, bad = only_shard(tmp_path / "wrong", wrong)
    assert [b.reason for b in bad] == ["no energy: the record has no `nothing`"]


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (None, ["C1H4O1", "H2O1", "Cu1"] * 2),
        ("@file", ["{file}"] * 6),
        ("@record", [f"{{file}}#{k}" for k in range(6)]),
        ("@block:4", ["{file}#0"] * 4 + ["{file}#1"] * 2),
    ],
)
def test_group_keys(tmp_path: Path, key: str | None, expected: list[str]) -> None:
    path = str(tmp_path / "x.extxyz")
    write(path, labelled(6))
    shard, _ = only_shard(tmp_path / "out", SourceSettings("x", "ase", (path,), group_key=key))
    assert shard.groups.tolist() == [name.format(file=path) for name in expected]


def test_broken_frames_cost_only_themselves(tmp_path: Path) -> None:
    write(tmp_path / "good.extxyz", labelled(5))
    lines = (tmp_path / "good.extxyz").read_text().splitlines(keepends=True)
    lines[2] = lines[2].replace(lines[2].split()[1], "oops")  # a coordinate of frame 0
    broken = tmp_path / "broken.extxyz"
    broken.write_text("".join(lines[:-2]))  # and the last frame is cut short
    shard, bad = only_shard(tmp_path / "out", SourceSettings("x", "ase", (str(broken),)))
    assert shard.index.tolist() == [1, 2, 3]
    assert [(b.file, b.index) for b in bad] == [(str(broken), 0), (str(broken), 4)]
    assert all(b.reason.startswith("unreadable: ") for b in bad)
    assert "ends inside" in bad[1].reason
    broken.write_text("".join([*lines[6 + 2 :], "garbage\n"]))
    _, bad = only_shard(tmp_path / "out2", SourceSettings("x", "ase", (str(broken),)))
    assert "not a number of atoms" in bad[-1].reason


def test_records_and_files_are_dealt_once(tmp_path: Path) -> None:
    frames = labelled(10)
    for k in range(3):
        write(tmp_path / f"{k}.extxyz", frames[k * 3 : k * 3 + 3])
    files = tuple(str(tmp_path / f"{k}.extxyz") for k in range(3))
    for n_shards in (1, 2, 3, 5):
        source = SourceSettings("dealt", "ase", files, shards=n_shards)
        results = run_read(tmp_path / f"{n_shards}", source)
        shards = [read_shard(Path(r.output))[0] for r in results]
        found = Counter((f, i) for s in shards for f, i in zip(s.file_index.tolist(), s.index.tolist(), strict=True))
        assert found == Counter((f, i) for f in range(3) for i in range(3))


def pymatgen_entry(k: int) -> dict[str, Any]:
    structure = Structure(Lattice.cubic(3.0 + 0.1 * k), ["Cu", "Au"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    outputs = {"energy": -1.5 * k, "forces": [[0.1 * k, 0, 0], [-0.1 * k, 0, 0]]}
    return {"structure": structure.as_dict(), "outputs": outputs, "meta": {"run": f"r{k}"}}


@pytest.mark.parametrize("layout", ["list", "tree", "lines", "computed-entries"])
def test_pymatgen_layouts(tmp_path: Path, layout: str) -> None:
    entries = [pymatgen_entry(k) for k in range(3)]
    path = tmp_path / ("x.jsonl" if layout == "lines" else "x.json")
    if layout == "lines":
        path.write_text("".join(json.dumps(e) + "\n" for e in entries))
    elif layout == "tree":
        path.write_text(json.dumps({"mp-1": {"f0": entries[0], "f1": entries[1]}, "mp-2": {"f0": entries[2]}}))
    elif layout == "list":
        path.write_text(json.dumps(entries))
    else:
        computed = [
            ComputedStructureEntry(
                Structure.from_dict(e["structure"]),
                e["outputs"]["energy"],
                correction=7.0,
                data={"forces": e["outputs"]["forces"], "run": e["meta"]["run"]},
            ).as_dict()
            for e in entries
        ]
        path.write_text(json.dumps(computed))
    key = "data.run" if layout == "computed-entries" else "meta.run"
    shard, bad = only_shard(tmp_path / "out", SourceSettings("x", "pymatgen-json", (str(path),), group_key=key))
    assert bad == []
    assert shard.energy.tolist() == [0.0, -1.5, -3.0]  # never the corrected energy
    np.testing.assert_allclose(shard.forces[:, 0], [0, 0, 0.1, -0.1, 0.2, -0.2])
    np.testing.assert_allclose(shard.cell[:, 0, 0], [3.0, 3.1, 3.2])
    np.testing.assert_allclose(shard.pos[3], [1.55] * 3)
    assert shard.pbc.all()
    assert shard.groups.tolist() == ["r0", "r1", "r2"]


def test_pymatgen_odd_records(tmp_path: Path) -> None:
    water = PymatgenMolecule(["O", "H", "H"], [[0, 0, 0], [0.96, 0, 0], [0, 0.96, 0]])
    disordered = Structure(Lattice.cubic(3.0), [{"Cu": 0.5, "Au": 0.5}], [[0, 0, 0]])
    dummy = Structure(Lattice.cubic(3.0), [DummySpecies("X")], [[0, 0, 0]])
    labels = {"energy": -1.0, "forces": [[0.0, 0, 0]]}
    entries = [
        {"structure": water.as_dict(), "energy": -14.0, "forces": [[0.0, 0, 0]] * 3},
        {"structure": disordered.as_dict(), **labels},
        {"structure": dummy.as_dict(), **labels},
        {"structure": {"@class": "Structure", "lattice": 3}, **labels},
        {"nothing": 1},
    ]
    path = tmp_path / "x.json"
    path.write_text(json.dumps(entries))
    shard, bad = only_shard(tmp_path / "out", SourceSettings("x", "pymatgen-json", (str(path),)))
    assert shard.natoms.tolist() == [3]
    assert not shard.pbc.any()
    assert [b.index for b in bad] == [1, 2, 3, 4]
    assert bad[0].reason == "disordered structure"
    assert bad[1].reason == "unknown element: atomic number 0, a ghost atom, a vacancy or a dummy"
    assert bad[2].reason.startswith("unreadable: ")
    assert bad[3].reason.startswith("unreadable: it has no '")
    path.write_text(json.dumps(entries)[:-30])
    shard, bad = only_shard(tmp_path / "cut", SourceSettings("x", "pymatgen-json", (str(path),)))
    assert shard.natoms.tolist() == [3]  # what came before the end is read
    assert bad[-1].reason.startswith("unreadable: parse error: premature EOF")


def test_own_dataset_is_a_source_again(tmp_path: Path) -> None:
    first = run_all(tmp_path, SourceSettings("alloys", "emt-alloys", options=ALLOYS))
    file = str(Path(first.output) / "alloys.bp")
    again = run_all(tmp_path, SourceSettings("again", "hydragnn", (file,), shards=2))
    columns = [all_columns(r) for r in (first, again)]
    order = [np.argsort(c.energy) for c in columns]
    np.testing.assert_array_equal(columns[0].energy[order[0]], columns[1].energy[order[1]])
    np.testing.assert_array_equal(columns[0].take(order[0]).pos, columns[1].take(order[1]).pos)
    assert again.statistics.n_groups == first.statistics.n_groups  # groups come along
