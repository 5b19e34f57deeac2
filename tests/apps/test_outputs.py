"""Files of predictions that are written in parts: every part, with gaps where a structure lacks a result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import write
from deploy_cases import EMT_BUNDLE

from gfm_pipeline.apps.deploy import outputs
from gfm_pipeline.apps.deploy.outputs import open_output
from gfm_pipeline.apps.deploy.predict import predict_files
from gfm_pipeline.core.contracts.data import SourceSettings
from gfm_pipeline.core.contracts.deploy import PredictFilesSpec
from gfm_pipeline.core.contracts.targets import Level
from gfm_pipeline.core.errors import ConfigError

LEVELS = {"energy": Level.GRAPH, "forces": Level.ATOM, "stress": Level.GRAPH, "in_domain": Level.GRAPH}


def predictions() -> list[tuple[Atoms, dict[str, Any]]]:
    """Return five structures; the first three, which are the first part and half of the second, have no stress."""
    found = []
    for k in range(5):
        atoms = Atoms("H" * (k + 1), positions=np.arange(3.0 * (k + 1)).reshape(-1, 3))
        results: dict[str, Any] = {"energy": -1.0 * k, "forces": np.full((k + 1, 3), float(k)), "in_domain": k > 1}
        if k > 2:
            results["stress"] = np.arange(6.0) + k
        found.append((atoms, results))
    return found


@pytest.fixture
def two_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "CHUNK", 2)


def written(path: Path) -> Path:
    with open_output(path, LEVELS) as output:
        for record, (atoms, results) in enumerate(predictions()):
            output.add("some.xyz", record, atoms, results)
    return path


@pytest.mark.usefixtures("two_at_a_time")
def test_hdf5_in_parts_is_hdf5_at_once(tmp_path: Path) -> None:
    with h5py.File(written(tmp_path / "all.h5")) as store:
        assert store["natoms"][:].tolist() == [1, 2, 3, 4, 5]
        assert store["file"].asstr()[:].tolist() == ["some.xyz"] * 5
        assert store["energy"][:].tolist() == [0.0, -1.0, -2.0, -3.0, -4.0]
        assert store["in_domain"][:].tolist() == [False, False, True, True, True]
        ends = np.cumsum(store["natoms"][:])
        for k, forces in enumerate(np.split(store["forces"][:], ends[:-1])):
            np.testing.assert_array_equal(forces, np.full((k + 1, 3), float(k)))
        assert np.isnan(store["stress"][:3]).all()
        np.testing.assert_array_equal(store["stress"][3:], [np.arange(6.0) + 3, np.arange(6.0) + 4])


@pytest.mark.usefixtures("two_at_a_time")
def test_parquet_in_parts_has_every_structure(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    file = parquet.ParquetFile(written(tmp_path / "all.parquet"))
    assert file.num_row_groups == 3
    rows = file.read().to_pylist()
    assert [row["energy"] for row in rows] == [0.0, -1.0, -2.0, -3.0, -4.0]
    assert [row["stress"] for row in rows] == [None, None, None, [3.0, 4, 5, 6, 7, 8], [4.0, 5, 6, 7, 8, 9]]
    assert [len(row["forces"]) for row in rows] == [3, 6, 9, 12, 15]


@pytest.mark.parametrize("suffix", [".h5", ".parquet"])
def test_a_fault_leaves_no_file(tmp_path: Path, suffix: str) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    path = tmp_path / f"all{suffix}"

    def interrupted() -> None:
        with open_output(path, LEVELS) as output:
            output.add("some.xyz", 0, *predictions()[0])
            raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        interrupted()
    assert not list(tmp_path.iterdir())


def test_predictions_never_replace_the_structures_that_they_are_of(tmp_path: Path) -> None:
    file = tmp_path / "labels.extxyz"
    write(file, bulk("Cu"))
    before = file.read_bytes()
    source = SourceSettings("labels", "ase", (str(file),))
    with pytest.raises(ConfigError, match=r"labels\.extxyz is also read"):
        predict_files(PredictFilesSpec(str(EMT_BUNDLE), source, output=str(file), overwrite=True))
    assert file.read_bytes() == before
