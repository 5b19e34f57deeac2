"""BP files as HydraGNN's writer lays them out: any axis, uniform samples, foreign keys, and none of our own."""

from __future__ import annotations

import random
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from adios2 import bindings as adios
from conformance import N_RECORDS, Conformance, Expected, archive, bad, good, read_all

from gfm_pipeline.apps.dataset import Columns, write_bp
from gfm_pipeline.apps.ingest.files.isolation import isolated
from gfm_pipeline.apps.ingest.readers import hydragnn as hydragnn_reader
from gfm_pipeline.apps.ingest.readers.registry import get_reader
from gfm_pipeline.core.contracts.data import Split
from gfm_pipeline.core.contracts.ingest.reading import ReadLimits
from gfm_pipeline.core.contracts.layout import CHUNK

SPLITS = {"trainset": slice(0, 3), "valset": slice(3, 4), "testset": slice(4, N_RECORDS)}


class TestHydragnn(Conformance):
    reader = "hydragnn"
    folder = True
    counts = True
    # No `spoil`: samples lie end to end; what is damaged is not seen in one of them.
    tolerance = 1e-5  # float32

    def write(self, folder: Path, expected: Expected) -> Path:
        """Write the keys of the published datasets; all samples have four atoms, so that edges join on axis 0."""
        path = folder / "published.bp"
        context = adios.ADIOS()
        io = context.DeclareIO("write")
        io.SetEngine("BP5")
        engine = io.Open(str(path), adios.Mode.Write)
        engine.BeginStep()
        io.DefineAttribute("total_ndata", np.array([N_RECORDS]))
        kept = []
        for label, part in SPLITS.items():
            n = len(expected.energy[part])
            atoms = np.tile(expected.numbers, n)[:, None].astype(np.float32)
            pos, forces = (a[part].reshape(-1, 3).astype(np.float32) for a in (expected.pos, expected.forces))
            keys = {
                "x": (np.concatenate([atoms, pos, forces], axis=1), 4),
                "pos": (pos, 4),
                "forces": (forces, 4),
                "energy": (expected.energy[part].astype(np.float64)[:, None], 1),
                "cell": (np.tile(expected.cell.astype(np.float32), (n, 1)), 3),
                "pbc": (np.tile(expected.pbc.astype(np.int32), n), 3),
                "graph_attr": (np.tile(np.array([-1.0, 2.0], np.float32), n), 2),
                "edge_index": (np.zeros((2 * n, 5), np.int64), 2),
            }
            io.DefineAttribute(f"{label}/ndata", np.array([n]))
            for key, (array, rows) in keys.items():
                name, size = f"{label}/{key}", np.full(n, rows, np.int64)
                io.DefineAttribute(f"{name}/variable_dim", np.array([0]))
                for entry, values in (
                    (name, array),
                    (f"{name}/variable_count", size),
                    (f"{name}/variable_offset", np.cumsum(size) - size),
                ):
                    kept.append(np.array(values, order="C"))
                    shape = list(kept[-1].shape)
                    variable = io.DefineVariable(entry, kept[-1], shape, [0] * len(shape), shape)
                    engine.Put(variable, kept[-1], adios.Mode.Sync)
        engine.EndStep()
        engine.Close()
        return path

    def cut(self, path: Path) -> None:
        data = path / "data.0"
        data.write_bytes(data.read_bytes()[:-64])

    @pytest.mark.parametrize(
        ("stored", "read"),
        [
            ((0, 0), (None, None)),  # as other programs write what they do not know
            ((0, 1), (0.0, 1.0)),
            ((np.nan, np.nan), (None, None)),
            ((0, np.nan), (0.0, None)),
            ((np.nan, 3), (None, 3.0)),
        ],
    )
    def test_what_is_not_known_is_told_from_zero(self, tmp_path: Path, stored, read) -> None:
        columns = Columns.build(
            numbers=np.array([1]), pos=np.zeros((1, 3)), forces=np.zeros((1, 3)), energy=np.zeros(1),
            cell=np.zeros((1, 3, 3)), pbc=np.zeros((1, 3)), natoms=np.array([1]), graph_attr=np.array([stored]),
        )  # fmt: skip
        write_bp(tmp_path / "x.bp", "x", {Split.TRAIN: columns}, {1: 0.0})
        (record,) = good(read_all(self.source(tmp_path / "x.bp")))
        assert (record.charge, record.spin) == read

    def test_charge_and_spin_are_kept(self, path: Path) -> None:
        assert {(record.charge, record.spin) for record in good(read_all(self.source(path)))} == {(-1.0, 2.0)}

    @pytest.mark.parametrize("size", [1, 2, CHUNK])
    def test_windows_do_not_matter(
        self, path: Path, expected: Expected, size: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(hydragnn_reader, "CHUNK", size)
        self.check(good(read_all(self.source(path))), expected)

    @pytest.mark.parametrize("name", ["data.0", "md.0", "md.idx", "mmd.0"])
    def test_a_lost_piece_is_named_and_nothing_hangs(self, path: Path, name: str) -> None:
        (path / name).unlink()
        (item,) = bad(read_all(self.source(path)))
        assert item.file == str(path)
        assert item.reason

    def test_another_file_costs_only_itself(self, tmp_path: Path, path: Path) -> None:
        other = tmp_path / "notes.bp"
        other.write_text("not data\n")
        items = read_all(self.source(other, path), 2)
        assert [item.file for item in bad(items)] == [str(other)]
        assert len(good(items)) == N_RECORDS

    def test_an_archive_is_to_be_unpacked(self, tmp_path: Path, path: Path) -> None:
        (item,) = read_all(self.source(archive(tmp_path / "all.tar", {"published.bp/md.0": path / "md.0"})))
        assert "npack" in bad([item])[0].reason

    def test_references_that_are_not_there_are_said_to_be_missing(self, path: Path) -> None:
        all_of_them = bad(read_all(self.source(path, options={"add_references": True})))
        assert len(all_of_them) == N_RECORDS
        assert all("no attribute energy_linear_regression_coeff" in item.reason for item in all_of_them)


@pytest.mark.parametrize("name", ["md.0", "mmd.0", "md.idx", "data.0"])
def test_whatever_damaged_bytes_do_to_adios_the_file_is_named_and_the_next_is_read(tmp_path, name):
    layout = TestHydragnn()
    path = layout.write(tmp_path, Expected())
    for seed in range(6):  # of metadata, most end the process by a signal, and some make it wait for ever
        damaged = tmp_path / f"{seed}.bp"
        shutil.copytree(path, damaged)
        data, rng = bytearray((damaged / name).read_bytes()), random.Random(seed)
        for _ in range(10):
            data[rng.randrange(len(data))] = rng.randrange(256)
        (damaged / name).write_bytes(data)
    files = tuple(str(tmp_path / f"{seed}.bp") for seed in range(6))
    source = replace(layout.source(path), files=(*files, str(path)))
    items = list(isolated(get_reader("hydragnn"), ReadLimits(2.0, 2.0)).read(source, 0, 1, 0))
    assert len([item for item in good(items) if item.file == str(path)]) == N_RECORDS
    for file in files:
        said = [item for item in items if item.file == file]
        assert bad(said) or len(said) == N_RECORDS, file
