"""A path that exists is that path, whatever characters it has; only otherwise it is a pattern."""

from __future__ import annotations

import json
import os
import tarfile
import unicodedata
import zipfile
from pathlib import Path
from typing import Any

import pytest
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML
from workflow_cases import VALID

from gfm_pipeline.apps.ingest.readers.registry import get_reader
from gfm_pipeline.apps.ingest.records import Record
from gfm_pipeline.cli.main import invoke
from gfm_pipeline.core.contracts.data import SourceSettings
from gfm_pipeline.workflow.load import load_workflow
from gfm_pipeline.workflow.resolve import resolve_source
from gfm_pipeline.workflow.source_files import named

FRAME = '1\nProperties=species:S:1:pos:R:3:forces:R:3 energy={e} Lattice="4 0 0 0 4 0 0 0 4"\nCu 0 0 0 0 0 0\n'
NAMES = [
    "run@300K.xyz",
    "run@:.xyz",
    "d[1].xyz",
    "run [300 K].xyz",
    "[v2].xyz",
    "[!a].xyz",
    "what?.xyz",
    "all*.xyz",
    "a b  c.xyz",
    "#1.xyz",
    "50%.xyz",
    "~.xyz",
    "~nobody.xyz",
    "-rf.xyz",
    "--help.xyz",
    "a::b.xyz",
    "a:b.xyz",
    "mysql:x.xyz",
    "a'b\"c$HOME;`x`.xyz",
    "a\\b.xyz",
    "L\u00e4ufe \u00e9.xyz",
    "\u91d1\u5c5e.xyz",
    "{a,b}.xyz",
    "**.xyz",
]


def resolved(folder: Path, files: Any, **source: Any) -> SourceSettings:
    plain: dict[str, Any] = YAML(typ="safe").load(VALID)
    plain["data"]["sources"] = {"s": {"reader": "ase", "files": files, "force_sign": "forces", **source}}
    with open(folder / "w.yaml", "w", encoding="utf-8") as stream:
        YAML(typ="safe").dump(plain, stream)
    return resolve_source(load_workflow(folder / "w.yaml"), "s")


def energies(source: SourceSettings) -> list[float]:
    items = list(get_reader(source.reader).read(source, 0, 1, 0))
    assert all(isinstance(item, Record) for item in items), items
    return [item.energy for item in items if isinstance(item, Record) and item.energy is not None]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_that_file_alone_and_in_folders_and_archives(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(FRAME.format(e=-1.0))
    for decoy in ("run.xyz", "d1.xyz", "v.xyz", "what1.xyz", "allofthem.xyz", "b.xyz", "plain.xyz"):
        (tmp_path / decoy).write_text(FRAME.format(e=-2.0))
    assert energies(resolved(tmp_path, name)) == [-1.0]
    assert energies(resolved(tmp_path, [name])) == [-1.0]
    folder = tmp_path / "project [v2]" / name.removesuffix(".xyz")
    folder.mkdir(parents=True)
    for k in range(2):
        (folder / f"{k}{name}").write_text(FRAME.format(e=-3.0 - k))
    below = f"project [v2]/{name.removesuffix('.xyz')}"
    assert energies(resolved(tmp_path, f"{below}/*.xyz")) == [-3.0, -4.0]
    assert energies(resolved(tmp_path, f"{below}/0{name}")) == [-3.0]
    assert energies(resolved(tmp_path, f"**/0{name}")) == [-3.0]
    with zipfile.ZipFile(tmp_path / "a [1].zip", "w") as packed, tarfile.open(tmp_path / "a [1].tar.gz", "w:gz") as tar:
        for path in (tmp_path / name, tmp_path / "plain.xyz"):
            packed.write(path, path.name)
            tar.add(path, path.name)
    for archive in ("a [1].zip", "a [1].tar.gz"):
        if name == "**.xyz":
            continue  # as a pattern it means the other member too
        assert energies(resolved(tmp_path, archive, options={"members": name})) == [-1.0]


@pytest.mark.parametrize("suffix", [".cif", ".json", ".traj", ".db", ".vasp"])
def test_ase_is_not_to_split_names(tmp_path: Path, suffix: str) -> None:
    atoms = bulk("Cu")
    if suffix not in (".cif", ".vasp"):
        atoms.calc = SinglePointCalculator(atoms, energy=-3.0, forces=[[0.0, 0.0, 0.0]])
    write(tmp_path / f"run{suffix}", atoms)
    (tmp_path / f"run{suffix}").rename(tmp_path / f"run@3[1]{suffix}")
    source = resolved(tmp_path, f"run@3[1]{suffix}", options={"format": "vasp"} if suffix == ".vasp" else {})
    (record,) = get_reader("ase").read(source, 0, 1, 0)
    assert isinstance(record, Record)


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_accents_may_be_composed_or_not(tmp_path: Path, form: Any) -> None:
    name = "Läufe é"
    folder = tmp_path / unicodedata.normalize(form, name)
    folder.mkdir()
    (folder / unicodedata.normalize(form, f"{name}1.xyz")).write_text(FRAME.format(e=-1.0))
    for asked in ("NFC", "NFD"):
        spelled = unicodedata.normalize(asked, name)  # type: ignore[arg-type]
        assert energies(resolved(tmp_path, f"{spelled}/{spelled}1.xyz")) == [-1.0]
        assert energies(resolved(tmp_path, f"{spelled}/{spelled}*.xyz")) == [-1.0]


def test_home_is_home_unless_something_is_called_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, here = tmp_path / "home [1]", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    monkeypatch.setenv("HOME", str(home))
    (home / "a.xyz").write_text("")
    assert named(here, "~/a.xyz") == [home / "a.xyz"]
    assert named(here, "~/*.xyz") == [home / "a.xyz"]
    (here / "~").mkdir()
    (here / "~" / "a.xyz").write_text("")
    assert named(here, "~/a.xyz") == [here / "~" / "a.xyz"]
    assert named(here, "~nobody/a.xyz") == []


@given(st.text(st.characters(blacklist_characters="/\0", blacklist_categories=["Cs"]), min_size=1, max_size=12))
def test_any_name_is_found(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    if name in (".", "..") or len(name.encode()) > 200:
        return
    folder = tmp_path_factory.mktemp("names")
    try:
        (folder / name).write_text("")
    except OSError:  # this file system has no such names
        return
    assert named(folder, name) == [folder / name]
    assert named(Path("/"), str(folder / name)) == [folder / name]


def test_patterns_are_what_they_were(tmp_path: Path) -> None:
    for name in ("a/b/1.xyz", "a/2.xyz", "3.xyz", ".hidden.xyz", "a/x.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")

    def found(pattern: str) -> list[str]:
        return [str(path.relative_to(tmp_path)) for path in named(tmp_path, pattern)]

    assert found("**/*.xyz") == ["3.xyz", "a/2.xyz", "a/b/1.xyz"]
    assert found("*.xyz") == ["3.xyz"]
    assert found("a/*") == ["a/2.xyz", "a/b", "a/x.txt"]
    assert found("?/[0-9].xyz") == ["a/2.xyz"]
    assert found("a/../*.xyz") == ["a/../3.xyz"]
    assert found("gone.xyz") == found("gone*") == found("gone/*.xyz") == []


def test_a_name_that_is_no_text_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        with open(os.fsencode(tmp_path) + b"/\xff.xyz", "w") as stream:
            stream.write(FRAME.format(e=-1.0))
    except OSError:
        pytest.skip("this file system has text names only")
    (tmp_path / "w.yaml").write_text(
        VALID.replace("  sources:\n", "  sources:\n    s: {reader: ase, files: '*.xyz'}\n")
    )
    assert invoke(["ingest", str(tmp_path / "w.yaml"), "--preview", "s"]) == 2
    err = capsys.readouterr().err
    assert "is not UTF-8 text" in err
    assert len(err.strip().splitlines()) == 1


def test_brackets_are_shown_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run [red] [300 K].xyz").write_text(FRAME.format(e=-1.0))
    source = "    s: {reader: ase, files: 'run [red] [300 K].xyz', group_key: '@file'}\n"
    (tmp_path / "w.yaml").write_text(VALID.replace("  sources:\n", f"  sources:\n{source}"))
    assert invoke(["ingest", str(tmp_path / "w.yaml"), "--preview", "s"]) == 0
    assert "run [red] [300 K].xyz#0" in capsys.readouterr().out
    assert invoke(["ingest", str(tmp_path / "w.yaml"), "--preview", "s", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["usable"] == 1
