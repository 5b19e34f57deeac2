"""`init`: what is found in files is written down with its reason, and passes validation and preview; or nothing is."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.cluster import Octahedron
from ase.io import write
from ase.units import Hartree, kcal, mol

from gfm_pipeline.apps.ingest.preview import preview
from gfm_pipeline.cli import init as command
from gfm_pipeline.cli.main import invoke
from gfm_pipeline.core.errors import GFMError, error_of, plain_error
from gfm_pipeline.workflow.load import load_workflow
from gfm_pipeline.workflow.resolve import resolve_sources


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> Path:
    """Go to an empty folder, where previews are made in this process: the programs are the same."""

    def asked(_module: str, spec: Any, _kind: type, _seconds: float) -> Any:
        try:
            return preview(spec)
        except GFMError as error:
            raise error_of(plain_error(error)) from None

    monkeypatch.setattr(command, "query", asked)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def frames(path: str, n: int = 24, unit: float = 1.0, first: int = 0, **info: Any) -> None:
    """Write small crystals labelled by EMT, in keys that nobody declared, in ``unit`` eV."""
    found = []
    for k in range(first, first + n):
        atoms = bulk(("Cu", "Ni", "Al")[k % 3], cubic=True) * (1, 1, 2)
        atoms.rattle(0.08, seed=k)
        atoms.calc = EMT()
        atoms.arrays["my_forces"] = atoms.get_forces() / unit
        atoms.info = {"emt_energy": atoms.get_potential_energy() / unit, "run": f"r{k // 3}", **info}
        atoms.calc = None
        found.append(atoms)
    write(path, found, format="extxyz")


def test_keys_units_groups_and_splits_are_found_and_written_with_reasons(here, capsys):
    (here / "set").mkdir()
    frames("set/train.xyz", 27, kcal / mol)
    frames("set/test.xyz", 6, kcal / mol, first=27)
    assert invoke(["init", "set/train.xyz", "set/test.xyz", "--output", "w.yaml", "--name", "mine", "--json"]) == 0
    (source,) = json.loads(capsys.readouterr().out)["sources"]
    assert source["name"] == "set"
    assert source["settings"] | {"files": "", "splits": ""} == {
        "reader": "ase",
        "files": "",
        "splits": "",
        "energy_key": "emt_energy",
        "forces_key": "my_forces",
        "energy_unit": "kcal/mol",
        "group_key": "run",
    }
    assert [s["records"] for s in source["splits"]][2] == 6
    loaded = load_workflow(here / "w.yaml")
    assert loaded.model.name == "mine"
    (settings,) = resolve_sources(loaded)
    assert [Path(f).name for f in settings.files] == ["train.xyz", "test.xyz"]
    text = (here / "w.yaml").read_text()
    for key in ("energy_key", "energy_unit", "group_key"):
        assert any(line.strip().startswith(f"{key}:") and "  # " in line for line in text.splitlines())
    assert list(here.iterdir()) == [here / "set", here / "w.yaml"] or len(list(here.iterdir())) == 2


def test_nothing_is_written_where_ingest_would_fail_or_a_file_is_there(here, capsys):
    cases = {
        "cannot be read": ("odd.xyz", lambda p: p.write_text("no frames\n")),
        "cannot be read ": ("one.npz", lambda p: np.savez(p, a=np.zeros(3))),
        "three splits": ("two.xyz", lambda p: frames(str(p), 2)),
    }
    for words, (name, make) in cases.items():
        make(here / name)
        before = sorted(here.iterdir())
        code = invoke(["init", name, "--output", "w.yaml"])
        error = capsys.readouterr().err
        assert code == 2
        assert len(error.strip().splitlines()) == 1
        assert words.strip() in error
        assert sorted(here.iterdir()) == before
    (here / "workflow.yaml").write_text("mine\n")
    assert invoke(["init", "odd.xyz"]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert (here / "workflow.yaml").read_text() == "mine\n"
    for arguments in (["gone.xyz", "--output", "w.yaml"], ["--output", "w.yaml"], ["odd.xyz", "--output", "no/w.yaml"]):
        assert invoke(["init", *arguments]) == 2
        assert "Traceback" not in capsys.readouterr().err


def test_on_a_terminal_it_asks_and_more_bad_records_are_tolerated_by_name(here, monkeypatch):
    frames("a.xyz", 24)
    with open("a.xyz", "a") as stream:
        stream.write("1\nProperties=species:S:1:pos:R:3\nCu 0 0 0\n" * 4)  # without labels
    monkeypatch.setattr("sys.stdin", type("Terminal", (), {"isatty": staticmethod(lambda: True)}))
    answers = iter(["copper", "nothing*.xyz", "a*.xyz", ""])
    monkeypatch.setattr(command.click, "prompt", lambda *_, **__: next(answers))
    assert invoke(["init"]) == 0
    model = load_workflow(here / "workflow.yaml").model
    assert model.name == "copper"
    assert list(model.data.sources) == ["a"]
    assert 4 / 28 < model.data.max_quarantined < 0.3
    assert "4 x " in (here / "workflow.yaml").read_text()


def test_a_folder_stands_for_its_files_of_structures(here, capsys):
    (here / "set").mkdir()
    frames("set/a.xyz", 24)
    (here / "set" / "README.md").write_text("about these data\n")
    (here / "set" / "LICENSE").write_text("free\n")
    assert invoke(["init", "set"]) == 0
    assert "24 of 24 records" in capsys.readouterr().out
    (source,) = load_workflow(here / "workflow.yaml").model.data.sources.values()
    assert source.files in ("set/a.xyz", ["set/a.xyz"])


def unforced(path: str, **info: Any) -> None:
    """Write small crystals without forces."""
    atoms = [bulk("Cu", cubic=True) * (1, 1, 2) for _ in range(3)]
    for k, one in enumerate(atoms):
        one.rattle(0.08, seed=k)
        one.info = {"run": f"x{k}", **info}
    write(path, atoms, format="extxyz")


def test_a_test_set_without_usable_records_is_named_with_the_reason(here, capsys):
    frames("train.xyz", 24)
    frames("test_a.xyz", 6, first=24)
    unforced("test_b.xyz")
    assert invoke(["init", "train.xyz", "test_a.xyz", "test_b.xyz"]) == 2
    error = capsys.readouterr().err
    assert "(test_b.xyz): ingest would fail: no record is usable: 3 x no energy" in error
    assert not (here / "workflow.yaml").exists()


@pytest.mark.parametrize("others", [["test_a.xyz"], []])
def test_a_test_file_without_forces_judges_energies_alone(here, capsys, others):
    frames("train.xyz", 24)
    frames("test_a.xyz", 6, first=24)
    unforced("test_b.xyz", emt_energy=-1.0)
    assert invoke(["init", "train.xyz", *others, "test_b.xyz", "--json"]) == 0
    (source,) = json.loads(capsys.readouterr().out)["sources"]
    sets = {"b": {"files": "test_b.xyz", "force_sign": "none"}}
    assert source["settings"]["test_sets"] == sets | ({"a": "test_a.xyz"} if others else {})
    assert source["settings"]["files"] == "train.xyz"
    assert all(split["records"] for split in source["splits"])
    assert "without forces, on energies alone: b" in (here / "workflow.yaml").read_text()


def test_archives_and_hdf5_files_are_read_by_what_can_read_them(here, capsys):
    (here / "md").mkdir()
    atoms = bulk("Cu", cubic=True)
    for k in range(12):
        one = atoms.copy()
        one.rattle(0.05, seed=k)
        one.calc = EMT()
        frame = {
            "Positions": one.positions.tolist(),
            "Forces": one.get_forces().tolist(),
            "Energy": one.get_potential_energy(),
            "Lattice": one.cell.tolist(),
            "AtomTypes": list(one.symbols),
            "NumAtoms": len(one),
        }
        text = "# Header\n\n" + json.dumps({"Dataset": {"Data": [frame], "PositionsStyle": "angstrom"}})
        (here / "md" / f"{k}.json").write_text(text)
    with tarfile.open("all.tar.gz", "w:gz") as archive:
        archive.add("md")
    assert invoke(["init", "all.tar.gz", "--json"]) == 0
    (source,) = json.loads(capsys.readouterr().out)["sources"]
    assert source["settings"]["reader"] == "fitsnap-json"
    assert source["usable"] == 12


def test_the_layout_of_an_hdf5_file_and_the_sign_of_its_forces_are_found(here, capsys):
    rng = np.random.default_rng(0)
    with h5py.File("set.h5", "w") as file:
        for name in ("Cu", "Ni", "Pt"):
            pos = Octahedron(name, 2).positions + rng.normal(0.0, 0.03, (24, 6, 3))
            found = [Atoms(f"{name}6", one, calculator=EMT()) for one in pos]
            group = file.create_group(f"metals/{name}")
            group["species"] = np.array([s.encode() for s in found[0].symbols])
            group["coordinates"] = pos
            group["energies"] = np.array([one.get_potential_energy() for one in found]) / Hartree
            group["forces"] = -np.stack([one.get_forces() for one in found]) / Hartree  # gradients, as COMP6 has them
    assert invoke(["init", "set.h5", "--json"]) == 0
    (source,) = json.loads(capsys.readouterr().out)["sources"]
    assert source["settings"]["reader"] == "hdf5"
    assert source["settings"]["options"] == {"layout": "ani-1"}
    assert source["settings"]["force_sign"] == "gradients"
    assert load_workflow(here / "workflow.yaml").model.data.sources["set"].options == {"layout": "ani-1"}


def test_a_folder_stands_for_datasets_that_are_folders_in_it(here):
    for name in ("water/data_0", "water/deeper/data_1"):
        (here / name).mkdir(parents=True)
        (here / name / "type.raw").write_text("0\n")
    assert command._inside(here / "water") == [here / "water/data_0"]
    assert command._inside(here / "water/deeper") == [here / "water/deeper/data_1"]
    (here / "water/data_0").rename(here / "data_0")
    assert command._inside(here / "water") == [here / "water/deeper/data_1"]


def test_several_test_files_become_named_test_sets(here, capsys):
    """So does a folder of tests beside one of training; one test file alone stays the test split."""
    for folder in ("train", "test"):
        (here / folder).mkdir()
    frames("train/all.xyz", 27, kcal / mol)
    frames("test/300K.xyz", 3, kcal / mol, first=27)
    frames("test/dihedral_1.5.xyz", 3, kcal / mol, first=30)
    frames("train/test_600K.xyz", 3, kcal / mol, first=33)
    files = ["train/all.xyz", "train/test_600K.xyz", "test/300K.xyz", "test/dihedral_1.5.xyz"]
    assert invoke(["init", *files, "--output", "w.yaml", "--json"]) == 0
    (source,) = json.loads(capsys.readouterr().out)["sources"]
    sets = {"600K": "train/test_600K.xyz", "300K": "test/300K.xyz", "dihedral-1.5": "test/dihedral_1.5.xyz"}
    assert source["settings"]["test_sets"] == sets
    assert source["settings"]["files"] == "train/all.xyz"
    found = {one.name: one for one in resolve_sources(load_workflow(here / "w.yaml"))}
    name = source["name"]
    assert sorted(found) == sorted([name, *(f"{name}@{one}" for one in sets)])
    assert found[f"{name}@300K"].energy_unit == "kcal/mol"
    assert "never trained on" in (here / "w.yaml").read_text()


def test_isolated_atoms_belong_to_the_other_source_and_need_no_group(here, capsys):
    frames("all.xyz", 30)
    single = [Atoms(symbol, positions=[[0, 0, 0]]) for symbol in ("Cu", "Ni", "Al")]
    for atoms in single:
        atoms.info["emt_energy"] = 0.5
        atoms.arrays["my_forces"] = np.zeros((1, 3))
    write("isolated_atoms.extxyz", single)
    assert invoke(["init", "isolated_atoms.extxyz", "all.xyz", "--output", "w.yaml", "--json"]) == 0
    (source,) = json.loads(capsys.readouterr().out)["sources"]
    assert source["name"] == "all"
    assert source["settings"]["files"] == ["all.xyz", "isolated_atoms.extxyz"]
    assert source["settings"]["group_key"] == "run"
    assert "isolated_atoms.extxyz: reference energies" in (here / "w.yaml").read_text()
