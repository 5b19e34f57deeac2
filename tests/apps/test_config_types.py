"""The kind of configuration that records state: datasets keep it for the test split, and errors are grouped by it."""

from __future__ import annotations

import pytest
from ase.io import write
from ingest_cases import labelled, run_all

from gfm_pipeline.apps.calibrate.split_errors import SplitStructures
from gfm_pipeline.apps.dataset import Dataset
from gfm_pipeline.core.contracts.data import SourceSettings, Split
from gfm_pipeline.core.contracts.layout import Origins
from gfm_pipeline.core.publish import read_manifest
from gfm_pipeline.core.records import from_plain

KINDS = ("surface", "bulk", "")  # of records in turn; the last state none


def source_of(folder, key: str, shards: int) -> SourceSettings:
    frames = labelled(60)
    for k, atoms in enumerate(frames):
        atoms.info["run"] = f"run{k % 12}"
        if kind := KINDS[(k // 5) % 3]:
            atoms.info[key] = kind
    write(folder / "a.xyz", frames)
    return SourceSettings("x", "ase", (str(folder / "a.xyz"),), group_key="run", shards=shards)


@pytest.mark.parametrize("key", ["config_type", "configuration_type"])
def test_test_structures_keep_their_config_type_whatever_the_shards(tmp_path, key) -> None:
    found = []
    for shards in (1, 3):
        folder = tmp_path / str(shards)
        folder.mkdir()
        dataset = Dataset.open(path := folder / "x") if run_all(folder, source_of(folder, key, shards)) else None
        assert dataset is not None
        origins = from_plain(Origins, read_manifest(path).meta["origins"])
        numbers = dataset.columns(Split.TEST).origin.tolist()
        assert [origins.config_type(n) for n in numbers] == [KINDS[(n // 5) % 3] for n in numbers]
        (grouping,) = (g for g in SplitStructures.read(dataset).groupings() if g.by == "config type")
        assert set(grouping.names) == {"surface", "bulk", "none stated"}
        found.append(origins.config_types)
    assert found[0] == found[1]


def test_without_config_types_nothing_is_kept(tmp_path) -> None:
    dataset = Dataset.open(tmp_path / "x") if run_all(tmp_path, source_of(tmp_path, "note", 1)) else None
    assert dataset is not None
    assert read_manifest(tmp_path / "x").meta["origins"]["config_types"] == []
    assert "config type" not in {grouping.by for grouping in SplitStructures.read(dataset).groupings()}
