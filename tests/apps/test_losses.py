"""What is lost counts as what it is, so that `max_quarantined` works on true shares."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from ase.db import connect
from ingest_cases import labelled, run_all

from gfm_pipeline.apps.ingest.preview import preview
from gfm_pipeline.apps.ingest.readers.registry import get_reader
from gfm_pipeline.apps.ingest.records import Record
from gfm_pipeline.core.contracts.data import BadRecord, SourceSettings
from gfm_pipeline.core.contracts.ingest.preview import PreviewSpec
from gfm_pipeline.core.contracts.sources import validate_options
from gfm_pipeline.core.errors import DataError

N = 40
STRUCTURE = {"lattice": {"matrix": np.diag([4.0] * 3).tolist()}, "sites": [{"species": [{"element": "Cu", "occu": 1}]}]}


def entry(k: int) -> dict[str, Any]:
    sites = [{"species": [{"element": "Cu", "occu": 1}], "abc": [k / 100, 0.0, 0.0]}]
    return {"structure": {**STRUCTURE, "sites": sites}, "energy": -3.0 - k, "forces": [[0.0, 0.0, 0.0]]}


def frame(k: int, plain: bool) -> list[str]:
    comment = f"i = {k}, E = {-k}.5" if plain else f"Properties=species:S:1:pos:R:3:forces:R:3 energy=-{k}.5"
    rest = "" if plain else " 0 0 0"
    return ["3", comment, *(f"{symbol} {k / 100} {at} 0.0{rest}" for at, symbol in enumerate("OHH"))]


def shards(source: SourceSettings, n: int) -> tuple[list[Record], list[BadRecord]]:
    reader = get_reader(source.reader)
    items = [item for k in range(n) for item in reader.read(source, k, n, 0)]
    return [i for i in items if isinstance(i, Record)], [i for i in items if isinstance(i, BadRecord)]


def source_of(path: Path, reader: str = "ase", **options: Any) -> SourceSettings:
    return SourceSettings("s", reader, (str(path),), validate_options(reader, options), group_key="@record")


def replaced(at: int, line: int, text: str | None) -> Callable[[list[list[str]]], None]:
    """Return what changes, or takes out (None), one line of a frame."""

    def change(frames: list[list[str]]) -> None:
        frames[at][line : line + 1] = [] if text is None else [text]

    return change


def several(frames: list[list[str]]) -> None:
    for at in (3, 4, 5, 20):
        frames[at][0] = "three"


def swallowing(frames: list[list[str]]) -> None:
    frames[10][0] = "93"  # as if it were 18 frames


CHANGES: dict[str, tuple[Callable[[list[list[str]]], None], int]] = {
    "a count is too large": (replaced(10, 0, "93"), 1),
    "a count is far too large": (replaced(10, 0, "99999999999"), 1),
    "a count is one too large": (replaced(10, 0, "4"), 1),
    "a count is one too small": (replaced(10, 0, "2"), 1),
    "a count is nothing": (replaced(10, 0, "0"), 1),
    "a count is a word": (replaced(10, 0, "three"), 1),
    "a count is gone": (replaced(10, 0, None), 1),
    "counts are words": (several, 4),
    "a line of an atom is gone": (replaced(10, 3, None), 1),
    "the last count is too large": (replaced(N - 1, 0, "5"), 1),
    "the first count is a word": (replaced(0, 0, "x"), 1),
}


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_frames_that_are_lost_are_counted(tmp_path: Path, change: str, plain: bool) -> None:
    frames = [frame(k, plain) for k in range(N)]
    spoil, lost = CHANGES[change]
    spoil(frames)
    (tmp_path / "a.xyz").write_text("\n".join(line for lines in frames for line in lines) + "\n")
    records, bad = shards(source_of(tmp_path / "a.xyz"), 1)
    if plain and change == "counts are words":
        lost = 2  # nothing tells plain comments from each other: neighbours count as one
    assert len(bad) == lost
    assert len(records) == N - (4 if change == "counts are words" else lost)
    for n in (2, 7):
        some, others = shards(source_of(tmp_path / "a.xyz"), n)
        assert (len(some), len(others)) == (len(records), len(bad))


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.ndjson"])
def test_every_line_is_a_record_whatever_the_name_says(tmp_path: Path, name: str) -> None:
    lines = [json.dumps(entry(k)) for k in range(N)]
    lines[7] = lines[7][:-20]
    lines[9] = lines[9].replace("-12.0", "NaN")
    (tmp_path / name).write_text("\n".join(lines) + "\n")
    records, (bad,) = shards(source_of(tmp_path / name, "pymatgen-json"), 3)
    assert len(records) == N - 1
    assert bad.index == 7


@pytest.mark.parametrize("where", ["between", "inside", "after"])
def test_records_behind_a_break_of_a_list_are_counted(tmp_path: Path, where: str) -> None:
    texts = [json.dumps(entry(k)) for k in range(N)]
    if where == "between":
        texts[12] = "?? " + texts[12]
    elif where == "inside":
        texts[12] = texts[12].replace('"energy"', '"energy')
    text = "[" + ", ".join(texts) + ("]" if where != "after" else "")
    (tmp_path / "a.json").write_text(text)
    for n in (1, 3):
        records, bad = shards(source_of(tmp_path / "a.json", "pymatgen-json"), n)
        good = N if where == "after" else 12
        assert len(records) == good
        assert len(bad) == max(1, N - good)
    seen = preview(PreviewSpec(source_of(tmp_path / "a.json", "pymatgen-json"), 0))
    assert (seen.usable, seen.read) == (good, max(N, good + 1))


def test_a_file_that_says_its_length_loses_the_rest_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with connect(tmp_path / "a.db") as database:
        for atoms in labelled(12):
            database.write(atoms)
    reader = get_reader("ase")
    usual = type(reader).frames

    def ends_early(self: Any, part: Any, options: Any) -> Any:
        for k, parse in enumerate(usual(self, part, options)):
            if k == 5:
                raise MemoryError
            yield parse

    monkeypatch.setattr(type(reader), "frames", ends_early)
    for n in (1, 5):
        records, bad = shards(source_of(tmp_path / "a.db"), n)
        assert (len(records), len(bad)) == (5, 7)
    assert {item.index for item in bad} == set(range(5, 12))


def test_what_cannot_be_counted_is_said_to_be_the_least(tmp_path: Path) -> None:
    (tmp_path / "a.xyz.gz").write_text("no gzip")
    _, (bad,) = shards(source_of(tmp_path / "a.xyz.gz"), 1)
    assert bad.reason.endswith("the rest of this file is lost, at least one record")


def test_true_shares_decide(tmp_path: Path) -> None:
    texts = [json.dumps(entry(k)) for k in range(N)]
    texts[20] = "?? " + texts[20]
    (tmp_path / "a.json").write_text("[" + ", ".join(texts) + "]")
    source = source_of(tmp_path / "a.json", "pymatgen-json")
    with pytest.raises(DataError, match="20 of 40 records were set aside, more than the 40 % allowed"):
        run_all(tmp_path / "out", source, max_quarantined=0.4)


def test_a_group_that_is_lost_is_named(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_group("A")["coordinates"] = 1.0
    _, (bad,) = shards(source_of(tmp_path / "a.h5", "hdf5", layout="ani-1x"), 1)
    assert "/A" in bad.reason
