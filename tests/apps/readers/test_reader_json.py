"""JSON of pymatgen and FitSNAP: streamed, in every nesting, compressed and from archives."""

from __future__ import annotations

import io
import json
import tarfile
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conformance import N_RECORDS, Conformance, Expected, bad, compress, good, read_all
from pymatgen.core import Lattice, Structure
from pymatgen.entries.computed_entries import ComputedStructureEntry

from gfm_pipeline.apps.ingest.files import json_stream
from gfm_pipeline.apps.ingest.files.archive_members import parts
from gfm_pipeline.apps.ingest.readers import fitsnap as fitsnap_reader
from gfm_pipeline.apps.ingest.readers.registry import get_reader
from gfm_pipeline.core.contracts.data import SourceSettings


def structures(expected: Expected) -> list[Structure]:
    return [Structure(Lattice(expected.cell), expected.numbers, pos, coords_are_cartesian=True) for pos in expected.pos]


class PymatgenJson(Conformance):
    reader = "pymatgen-json"
    in_archives = True

    def spoil(self, path: Path, index: int) -> None:
        text = path.read_text()
        at = -1
        for _ in range(index + 1):
            at = text.index('"lattice": {', at + 1)
        path.write_text(text[:at] + '"lattice": {"x": ' + text[at + len('"lattice": ') :].replace("}", "}}", 1))


class TestList(PymatgenJson):
    """The layout of mlearn."""

    def write(self, folder: Path, expected: Expected) -> Path:
        rows = zip(structures(expected), expected.energy, expected.forces, strict=True)
        entries = [
            {"structure": s.as_dict(), "outputs": {"energy": e, "forces": f.tolist()}, "group": "g"} for s, e, f in rows
        ]
        (folder / "list.json").write_text(json.dumps(entries))
        return folder / "list.json"


class TestMptrj(PymatgenJson):
    """Material, frame, record: the layout of MPtrj and CHGNet."""

    def write(self, folder: Path, expected: Expected) -> Path:
        tree: dict[str, dict[str, Any]] = {}
        for k, (s, e, f) in enumerate(zip(structures(expected), expected.energy, expected.forces, strict=True)):
            record = {
                "structure": s.as_dict(),
                "uncorrected_total_energy": e,
                "corrected_total_energy": e - 3.0,
                "energy_per_atom": (e - 3.0) / 4,
                "ef_per_atom": -1.0,
                "force": f.tolist(),
                "stress": np.eye(3).tolist(),
                "magmom": None,
                "bandgap": float("nan"),
                "mp_id": f"mp-{k // 2}",
            }
            tree.setdefault(f"mp-{k // 2}", {})[f"mp-{k // 2}-0-{k}"] = record
        (folder / "MPtrj.json").write_text(json.dumps(tree))
        return folder / "MPtrj.json"

    def test_frames_of_a_material_are_a_group(self, path: Path) -> None:
        records = good(read_all(self.source(path, group_key="mp_id")))
        assert [record.group for record in records] == ["mp-0", "mp-0", "mp-1", "mp-1", "mp-2", "mp-2"]


class TestAlexandria(PymatgenJson):
    """``{"entries": [ComputedStructureEntry, ...]}``, forces as site properties, bzip2."""

    def write(self, folder: Path, expected: Expected) -> Path:
        entries = []
        for s, e, f in zip(structures(expected), expected.energy, expected.forces, strict=True):
            s.add_site_property("forces", f.tolist())
            entry = ComputedStructureEntry(s, e, correction=7.0, data={"mat_id": f"agm{len(entries)}"}).as_dict()
            entries.append({key: entry[key] for key in sorted(entry)})
        (folder / "alexandria.json").write_text(json.dumps({"entries": entries}))
        return folder / "alexandria.json"

    def test_material_numbers_are_groups(self, path: Path) -> None:
        source = self.source(compress(path, ".bz2"), group_key="data.mat_id")
        assert [record.group for record in good(read_all(source))] == [f"agm{k}" for k in range(N_RECORDS)]


class TestLines(PymatgenJson):
    def write(self, folder: Path, expected: Expected) -> Path:
        entries = json.loads(TestList().write(folder, expected).read_text())
        (folder / "lines.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
        return folder / "lines.jsonl"


class TestFitsnap(Conformance):
    """One file a configuration; here all are of one file, as `Data` allows."""

    reader = "fitsnap-json"
    in_archives = True

    def write(self, folder: Path, expected: Expected) -> Path:
        data = [
            {
                "AtomTypes": ["O", "H", "H", "C"],
                "Energy": e,
                "Forces": f.tolist(),
                "Lattice": expected.cell.tolist(),
                "NumAtoms": 4,
                "Positions": p.tolist(),
                "Stress": np.zeros((3, 3)).tolist(),
            }
            for e, f, p in zip(expected.energy, expected.forces, expected.pos, strict=True)
        ]
        styles = {"AtomTypeStyle": "chemicalsymbol", "EnergyStyle": "electronvolt", "LatticeStyle": "angstrom"}
        text = json.dumps({"Dataset": {**styles, "Data": data, "Label": "made"}}, indent=1)
        (folder / "strain.json").write_text(f"# Header\n\n{text}\n")
        return folder / "strain.json"

    def spoil(self, path: Path, index: int) -> None:
        head, *rest = path.read_text().split('"Energy"')
        at = rest[index].index('"Lattice"')
        rest[index] = rest[index][:at] + '"Lattice_"' + rest[index][at + len('"Lattice"') :]
        path.write_text('"Energy"'.join([head, *rest]))


class TestLongFitsnap(TestFitsnap):
    """A file that is longer than what is parsed at once."""

    @pytest.fixture(autouse=True)
    def _little_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(fitsnap_reader, "AT_ONCE", 100)


def test_a_real_fitsnap_archive_is_read_without_unpacking(real_data: Path) -> None:
    packed = real_data / "inp" / "InP_JPCA2020_JSON.tar.gz"
    source = SourceSettings("inp", "fitsnap-json", (str(packed),), {"members": "*/Strain/*.json"}, group_key="folder")
    items = list(get_reader("fitsnap-json").read(source, 0, 40, 0))
    records = good(items)
    assert bad(items) == []
    assert {record.group for record in records} == {"Strain"}
    first = next(r for r in records if r.member == 0)
    assert first.file == f"{packed}::JSON/Strain/InP_strain_1431.json"
    assert first.energy == -37.53059169
    assert first.numbers.tolist() == [49] * 4 + [15] * 4
    np.testing.assert_array_equal(np.diag(first.cell), [5.615067527, 5.585256558, 5.418220822])
    np.testing.assert_array_equal(first.pos[1], [2.80753, 0.0, 2.70911])
    assert len({(r.member, r.index) for r in records}) == len(records)


class Watched(io.BytesIO):
    """Counts the bytes that are read."""

    taken = 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self.taken += len(data)
        return data


def test_the_first_record_of_a_large_file_needs_no_more_than_its_beginning() -> None:
    record = json.dumps({"structure": {"sites": list(range(100))}, "energy": 1.0})
    stream = Watched(("[" + ", ".join([record] * 10_000) + "]").encode())
    first = next(json_stream.records(stream, "structure"))
    assert first()["energy"] == 1.0
    assert stream.taken < len(stream.getvalue()) / 20


@pytest.mark.parametrize("size", [1, 7, 64, 1000])
def test_numbers_that_json_does_not_have_are_null_wherever_pieces_end(size: int) -> None:
    text = json.dumps({"a": [float("nan"), float("-inf"), 1.5, "is NaN here"], "b": float("inf")}).encode()
    finite = json_stream._Finite(io.BytesIO(text), "b")
    pieces = iter(lambda: finite.read(size), b"")
    assert json.loads(b"".join(pieces)) == {"a": [None, None, 1.5, "is NaN here"], "b": None}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ({"structure": 1, "energy": 2}, [{"structure": 1, "energy": 2}]),
        ([{"energy": 2, "structure": 1}, 5, {"energy": 3}], [{"energy": 2, "structure": 1}, 5, {"energy": 3}]),
        ({"about": {"version": 1}, "entries": [{"structure": {"a": [1, {}]}}]}, [1, {"structure": {"a": [1, {}]}}]),
        (
            [[{"structure": 1}], [{"structure": 2}, {"structure": 3}]],
            [{"structure": 1}, {"structure": 2}, {"structure": 3}],
        ),
    ],
)
def test_records_are_found_at_any_depth(text: Any, expected: list[Any]) -> None:
    stream = io.BytesIO(json.dumps(text).encode())
    assert [record() for record in json_stream.records(stream, "structure")] == expected
    stream.seek(0)
    skipped = list(json_stream.records(stream, "structure"))
    assert len(skipped) == len(expected)


def test_a_file_without_structures_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('[{"a": 1}]')
    (item,) = read_all(SourceSettings("x", "pymatgen-json", (str(tmp_path / "x.json"),)))
    assert "no 'structure' in this file" in bad([item])[0].reason


def test_members_of_an_archive_that_were_read_are_forgotten(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "many.tar", "w") as archive:
        for k in range(4000):
            archive.addfile(tarfile.TarInfo(f"folder/configuration-{k:06d}.json"))
    tracemalloc.start()
    try:
        held = [tracemalloc.get_traced_memory()[0] for _ in parts(str(tmp_path / "many.tar"))]
    finally:
        tracemalloc.stop()
    assert len(held) == 4000
    assert held[-1] - held[1000] < 200_000  # kept, these 3,000 take two million
