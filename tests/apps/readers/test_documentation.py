"""docs/data.md is true: every example is parsed and read, and the reader it adds conforms."""

from __future__ import annotations

import gzip
import importlib
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conformance import N_RECORDS, Conformance, Expected, archive, bad, compress, good, read_all
from ruamel.yaml import YAML
from test_reader_ase import TestAseLmdb as AseLmdb
from test_reader_ase import TestExtxyz as Extxyz
from test_reader_cif_csv import TestFiles as CifFiles
from test_reader_cif_csv import TestText as CifText
from test_reader_deepmd import TestLmdb as DeepmdLmdb
from test_reader_deepmd import TestNpy as DeepmdNpy
from test_reader_hdf5 import TestAni1 as Ani1
from test_reader_hdf5 import TestAni1x as Ani1x
from test_reader_hdf5 import TestQm7x as Qm7x
from test_reader_hdf5 import TestSpice as Spice
from test_reader_hdf5 import TestTransition1x as Transition1x
from test_reader_json import TestAlexandria as Alexandria
from test_reader_json import TestFitsnap as Fitsnap
from test_reader_json import TestMptrj as Mptrj
from test_reader_json_table import plain_table, written
from test_reader_npz import TestRmd17 as Rmd17
from test_reader_ocp import TestLmdb as OcpLmdb
from test_reader_ocp import TestText as OcpText
from test_reader_ocp import geometric  # noqa: F401 - a fixture
from test_reader_vasp import TestVasprun as Vasprun
from workflow_cases import VALID

from gfm_pipeline.apps.ingest.readers.registry import get_reader
from gfm_pipeline.core.contracts.readers import BUILT_IN, describe, reader_names
from gfm_pipeline.core.errors import ConfigError, DataError
from gfm_pipeline.workflow.load import load_workflow
from gfm_pipeline.workflow.resolve import resolve_sources

PAGE = (Path(__file__).parents[3] / "docs" / "data.md").read_text()
BLOCKS = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
WRITTEN = {name: value for block in BLOCKS for name, value in YAML(typ="safe").load(block).items()}
# one source each; examples of other keys, and of files that only one publication has, are not sources of a reader
EXAMPLES = {name: value for name, value in WRITTEN.items() if "reader" in value and "test_sets" not in value}


def at(case: Conformance, *names: str) -> Callable[[Path, Expected], None]:
    """Return what writes a case's file and moves it, or a compressed copy, to where an example looks for it."""

    def make(folder: Path, expected: Expected) -> None:
        for name in names:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            written = case.write(target.parent, expected)
            if target.suffix in (".bz2", ".gz") and target.suffixes[-2:] != [".tar", ".gz"]:
                written = compress(written, target.suffix)
            written.rename(target)

    return make


def packed(case: Conformance, name: str, member: str) -> Callable[[Path, Expected], None]:
    def make(folder: Path, expected: Expected) -> None:
        archive(folder / name, {member: case.write(folder, expected)})

    return make


def oc20(folder: Path, expected: Expected) -> None:
    (folder / "s2ef_train_2M").mkdir()
    path = OcpText().write(folder / "s2ef_train_2M", expected)
    for file in (path, path.with_suffix(".txt")):
        compress(file, ".xz")
        file.unlink()


def water(folder: Path, expected: Expected) -> None:
    at(DeepmdNpy(), "water/data_0")(folder, expected)
    at(DeepmdLmdb(), "water/x.lmdb")(folder, expected)


def ice(folder: Path, expected: Expected) -> None:
    at(DeepmdNpy(), "ice/data_0")(folder, expected)
    (folder / "ice" / "data_0" / "type_map.raw").unlink()


def lines(folder: Path, expected: Expected) -> Path:
    rows = [
        {"z": expected.numbers.tolist(), "xyz": p.tolist(), "e": e, "f": f.tolist(), "molecule": "m"}
        for p, e, f in zip(expected.pos, expected.energy.tolist(), expected.forces, strict=True)
    ]
    path = folder / "lab.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def ours(folder: Path, expected: Expected) -> None:
    (folder / "ours").mkdir()
    (folder / "ours" / "a.jsonl.gz").write_bytes(gzip.compress(lines(folder, expected).read_bytes()))


def colabfit(folder: Path, expected: Expected) -> None:
    table = plain_table(expected).rename(columns={"name": "configuration_id"})
    written(table, folder / "colabfit.jsonl", "lines")


def published(folder: Path, expected: Expected) -> None:
    pytest.importorskip("pyarrow")
    plain_table(expected).rename(columns={"name": "configuration_id"}).to_parquet(folder / "co_0.parquet")


MADE: dict[str, Callable[[Path, Expected], None]] = {
    "molecules": at(Extxyz(), "runs/a.extxyz"),
    "omat": at(AseLmdb(), "omat/a.aselmdb"),
    "trajectories": packed(Extxyz(), "relaxations.tar.gz", "run1/frames.extxyz"),
    "mptrj": at(Mptrj(), "MPtrj.json"),
    "alexandria": at(Alexandria(), "alexandria_000.json.bz2"),
    "phonons": packed(Vasprun(), "calculations.zip", "a/vasprun.xml"),
    "ani-1x": at(Ani1x(), "ani1x-release.h5"),
    "comp6": at(Ani1(), "comp6/s66x8.h5"),
    "qm7-x": at(Qm7x(), "qm7x/1000.hdf5"),
    "spice": at(Spice(), "SPICE-2.0.1.hdf5"),
    "colabfit": colabfit,
    "published": published,
    "rmd17": at(Rmd17(), "rmd17_methanol.npz"),
    "transition1x": at(Transition1x(), "Transition1x.h5"),
    "water": water,
    "ice": ice,
    "oc20": oc20,
    "oc22": at(OcpLmdb(), "oc22/train/data.0000.lmdb"),
    "inp": packed(Fitsnap(), "InP_JSON.tar.gz", "JSON/Strain/a.json"),
    "cgcnn": at(CifFiles(), "cgcnn/id_prop.csv"),
    "mp-20": at(CifText(), "mp_20/train.csv"),
    "ours": ours,
}


@pytest.fixture
def lab_readers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Install the package of the documentation as pip does: modules beside their metadata, on the path."""
    site = tmp_path / "site-packages"
    for language, name, text in re.findall(r"```(python|toml)\n# (\S+)\n(.*?)```", PAGE, re.DOTALL):
        target = site / (name if language == "python" else "lab_readers-1.0.dist-info/entry_points.txt")
        target.parent.mkdir(parents=True, exist_ok=True)
        if language == "toml":
            text = re.sub(r'\[project\.entry-points\."(.*)"\]', r"[\1]", text).replace('"', "")
        target.write_text(text)
    (site / "lab_readers-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: lab-readers\nVersion: 1.0\n"
    )
    monkeypatch.syspath_prepend(str(site))
    importlib.invalidate_caches()
    yield site
    for module in [name for name in sys.modules if name.partition(".")[0] == "lab_readers"]:
        del sys.modules[module]


def test_every_example_is_made_and_every_reader_has_one() -> None:
    assert set(EXAMPLES) == set(MADE)
    with_files = {name for name, about in BUILT_IN.items() if not about.makes_data}
    assert with_files - {"hydragnn"} <= {source["reader"] for source in EXAMPLES.values()}
    table = PAGE[: PAGE.index("## What all readers")]
    assert all(f"`{name}`" in table for name in BUILT_IN)


@pytest.mark.usefixtures("geometric", "lab_readers")
@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_is_read(tmp_path: Path, name: str) -> None:
    periodic = EXAMPLES[name]["reader"] not in ("hdf5", "npz", "lab-lines")
    MADE[name](tmp_path, Expected(periodic))
    plain: dict[str, Any] = YAML(typ="safe").load(VALID)
    plain["data"]["sources"] = {name: EXAMPLES[name]}
    with open(tmp_path / "workflow.yaml", "w") as stream:
        YAML(typ="safe").dump(plain, stream)
    (source,) = resolve_sources(load_workflow(tmp_path / "workflow.yaml"))
    items = read_all(source, source.shards)
    assert bad(items) == []
    assert len(good(items)) == len(source.files) * N_RECORDS
    assert all(record.group for record in good(items))


@pytest.mark.usefixtures("lab_readers")
class TestDocumentedReader(Conformance):
    reader = "lab-lines"
    periodic = False
    in_archives = True

    def write(self, folder: Path, expected: Expected) -> Path:
        return lines(folder, expected)

    def spoil(self, path: Path, index: int) -> None:
        rows = path.read_text().splitlines(keepends=True)
        rows[index] = rows[index].replace('"z"', '"y"')
        path.write_text("".join(rows))

    def test_options_and_refusals(self, path: Path) -> None:
        items = bad(read_all(self.source(path, options={"charge": 1})))
        assert [item.reason for item in items] == ["another charge"] * N_RECORDS
        with pytest.raises(ConfigError, match=r"Reader lab-lines has no option 'charg'.*Did you mean charge"):
            self.source(path, options={"charg": 1})

    def test_it_is_listed(self) -> None:
        assert "lab-lines" in reader_names()
        with pytest.raises(ConfigError, match="Did you mean lab-lines"):
            describe("lab-line")


def test_without_the_package_there_is_no_such_reader() -> None:
    with pytest.raises(DataError, match="There is no reader 'lab-lines'"):
        get_reader("lab-lines")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("lab_readers:NOTHING", "of package lab-readers cannot be imported"),
        ("no_such_module:X", "of package lab-readers cannot be imported: No module named 'no_such_module'"),
        ("lab_readers:LabOptions", "lab_readers:LabOptions is not of type ReaderDescription"),
    ],
)
def test_wrong_entry_points_are_explained(lab_readers: Path, entry: str, message: str) -> None:
    points = lab_readers / "lab_readers-1.0.dist-info" / "entry_points.txt"
    points.write_text(f"[gfm_pipeline.readers]\nlab-lines = {entry}\n")
    with pytest.raises(ConfigError, match=message):
        describe("lab-lines")


def test_two_packages_with_one_name_are_an_error(lab_readers: Path) -> None:
    other = lab_readers / "other_lab-2.0.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: other-lab\nVersion: 2.0\n")
    (other / "entry_points.txt").write_text("[gfm_pipeline.readers]\nlab-lines = lab_readers:LAB_LINES\n")
    with pytest.raises(ConfigError, match="given by lab-readers and other-lab"):
        describe("lab-lines")


def test_what_a_reader_needs_is_named(lab_readers: Path) -> None:
    (lab_readers / "lab_readers" / "reader.py").write_text("import a_package_nobody_has\n")
    with pytest.raises(DataError, match=r"Reader lab-lines needs the package a_package_nobody_has"):
        get_reader("lab-lines")
