"""DeePMD-kit systems: folders of arrays, plain and mixed, and LMDB."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import lmdb
import msgpack
import numpy as np
import pytest
from conformance import N_RECORDS, Conformance, Expected, bad, good, read_all

from gfm_pipeline.apps.ingest.readers.registry import get_reader
from gfm_pipeline.core.contracts.data import SourceSettings
from gfm_pipeline.core.contracts.sources import validate_options

TYPES = np.array([0, 1, 1, 2])
TYPE_MAP = ["O", "H", "C"]


class TestRaw(Conformance):
    reader = "deepmd"
    folder = True

    def write(self, folder: Path, expected: Expected) -> Path:
        system = folder / "data_0"
        system.mkdir()
        n = len(expected.energy)
        np.savetxt(system / "coord.raw", expected.pos.reshape(n, -1), fmt="%.12g")
        np.savetxt(system / "force.raw", expected.forces.reshape(n, -1), fmt="%.12g")
        np.savetxt(system / "energy.raw", expected.energy, fmt="%.12g")
        np.savetxt(system / "box.raw", np.tile(expected.cell.ravel(), (n, 1)))
        (system / "type.raw").write_text("\n".join(map(str, TYPES)))
        (system / "type_map.raw").write_text("\n".join(TYPE_MAP))
        return system

    def spoil(self, path: Path, index: int) -> None:
        lines = (path / "force.raw").read_text().splitlines(keepends=True)
        lines[index] = lines[index].replace(" ", " x", 1)
        (path / "force.raw").write_text("".join(lines))

    def cut(self, path: Path) -> None:
        file = path / "energy.raw"
        file.write_text("".join(file.read_text().splitlines(keepends=True)[:-2]))


class TestHdf5(Conformance):
    reader = "deepmd"
    counts = True
    # No `spoil`: a set is one array.

    def write(self, folder: Path, expected: Expected) -> Path:
        with h5py.File(folder / "all.hdf5", "w") as file:
            for name, part in (("a/data_0", slice(0, 4)), ("b", slice(4, None))):
                n = len(expected.energy[part])
                group = file.create_group(name)
                group["type.raw"] = np.array(TYPES)
                group["type_map.raw"] = np.array(TYPE_MAP, dtype="S4")
                group["set.000/coord.npy"] = expected.pos[part].reshape(n, -1)
                group["set.000/force.npy"] = expected.forces[part].reshape(n, -1)
                group["set.000/energy.npy"] = expected.energy[part]
                group["set.000/box.npy"] = np.tile(expected.cell.ravel(), (n, 1))
        return folder / "all.hdf5"

    def cut(self, path: Path) -> None:
        path.write_bytes(path.read_bytes()[:-500])


class TestNpy(Conformance):
    reader = "deepmd"
    folder = True
    counts = True
    # No `spoil`: a set is one array.

    def write(self, folder: Path, expected: Expected) -> Path:
        system = folder / "data_0"
        for name, part in (("set.000", slice(0, 4)), ("set.001", slice(4, None))):
            (system / name).mkdir(parents=True)
            n = len(expected.energy[part])
            np.save(system / name / "coord.npy", expected.pos[part].reshape(n, -1))
            np.save(system / name / "force.npy", expected.forces[part].reshape(n, -1))
            np.save(system / name / "energy.npy", expected.energy[part])
            np.save(system / name / "box.npy", np.tile(expected.cell.ravel(), (n, 1)))
        (system / "type.raw").write_text("\n".join(map(str, TYPES)))
        (system / "type_map.raw").write_text("\n".join(TYPE_MAP))
        return system

    def cut(self, path: Path) -> None:
        file = path / "set.000" / "coord.npy"
        file.write_bytes(file.read_bytes()[:-100])

    def test_a_cut_set_does_not_cost_the_next(self, path: Path) -> None:
        self.cut(path)
        items = read_all(self.source(path))
        assert len(good(items)) == 2
        assert "set.000" in bad(items)[0].reason

    def test_arrays_of_different_lengths_are_refused(self, path: Path) -> None:
        np.save(path / "set.001" / "energy.npy", np.zeros(5))
        broken, also = bad(read_all(self.source(path)))  # both frames of the set
        assert "set.001: energy.npy has 5 frames, coord.npy 2" in broken.reason == also.reason

    def test_elements_may_be_named_by_the_source(self, path: Path, expected: Expected) -> None:
        (path / "type_map.raw").unlink()
        assert "set the option type_map" in bad(read_all(self.source(path)))[0].reason
        self.check(good(read_all(self.source(path, options={"type_map": TYPE_MAP}))), expected)

    def test_pickles_are_not_read(self, path: Path) -> None:
        np.save(path / "set.001" / "energy.npy", np.array([None, {}], dtype=object), allow_pickle=True)
        assert "set.001" in bad(read_all(self.source(path)))[0].reason


class TestMixed(TestNpy):
    """Every frame has its own types, padded with atoms that are not there."""

    def write(self, folder: Path, expected: Expected) -> Path:
        system = super().write(folder, expected)
        for part in system.glob("set.*"):
            n = len(np.load(part / "energy.npy"))
            for name in ("coord", "force"):
                padded = np.pad(np.load(part / f"{name}.npy").reshape(n, 4, 3), ((0, 0), (0, 2), (0, 0)))
                np.save(part / f"{name}.npy", padded.reshape(n, -1))
            np.save(part / "real_atom_types.npy", np.tile([*TYPES, -1, -1], (n, 1)))
        (system / "type.raw").write_text("0\n" * 6)
        return system


class TestMolecules(TestNpy):
    periodic = False

    def write(self, folder: Path, expected: Expected) -> Path:
        system = super().write(folder, expected)
        (system / "nopbc").touch()
        return system


def encode(array: Any) -> dict[str, Any]:
    array = np.asarray(array)
    return {"type": str(array.dtype), "shape": list(array.shape), "data": array.tobytes()}


class TestLmdb(Conformance):
    reader = "deepmd"
    folder = True
    counts = True

    def write(self, folder: Path, expected: Expected) -> Path:
        path = folder / "system.lmdb"
        about = {"nframes": N_RECORDS, "frame_idx_fmt": "012d", "type_map": TYPE_MAP, "frame_nlocs": [4] * N_RECORDS}
        with lmdb.open(str(path), map_size=2**28) as environment, environment.begin(write=True) as transaction:
            transaction.put(b"__metadata__", msgpack.packb(about))
            for k in range(N_RECORDS):
                frame = {
                    "atom_types": encode(TYPES.astype(np.int32)),
                    "coords": encode(expected.pos[k]),
                    "cells": encode(expected.cell),
                    "energies": encode(expected.energy[k]),
                    "forces": encode(expected.forces[k]),
                    "atom_numbs": [1, 2, 1],
                }
                transaction.put(f"{k:012d}".encode(), msgpack.packb(frame))
        return path

    def spoil(self, path: Path, index: int) -> None:
        with lmdb.open(str(path), map_size=2**28) as environment, environment.begin(write=True) as transaction:
            transaction.put(f"{index:012d}".encode(), b"\x81\xa1")

    def cut(self, path: Path) -> None:
        data = (path / "data.mdb").read_bytes()
        (path / "data.mdb").write_bytes(data[:9000])


def test_real_water_is_read_from_both(real_data: Path) -> None:
    npy = SourceSettings("w", "deepmd", (str(real_data / "water" / "data_0"),), validate_options("deepmd", {}))
    database = real_data / "water" / "lmdb" / "water_training.lmdb"
    packed = SourceSettings("w", "deepmd", (str(database),), validate_options("deepmd", {}))
    items, others = read_all(npy), read_all(packed)
    assert bad(items) == bad(others) == []
    assert len(items) == len(others) == get_reader("deepmd").count(npy) == get_reader("deepmd").count(packed) == 80
    folder = real_data / "water" / "data_0" / "set.000"
    coord, box = np.load(folder / "coord.npy"), np.load(folder / "box.npy")
    for k, record in enumerate(good(items)):
        np.testing.assert_array_equal(record.pos, coord[k].reshape(-1, 3))
        np.testing.assert_array_equal(record.cell.ravel(), box[k])
        assert sorted(np.unique(record.numbers, return_counts=True)[1].tolist()) == [64, 128]
    first, second = good(items)[0], good(others)[0]
    assert second.pbc.all()
    assert second.numbers.tolist() == first.numbers.tolist()


@pytest.mark.parametrize("name", ["data_0", "x.lmdb"])
def test_what_is_no_system_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "data_0":
        path.mkdir()
        (path / "type_map.raw").write_text("H")
        (path / "type.raw").write_text("zero\n")
    else:
        with lmdb.open(str(path), subdir=False, map_size=2**28) as environment, environment.begin(write=True) as txn:
            txn.put(b"1", b"2")
    (item,) = read_all(SourceSettings("x", "deepmd", (str(path),)))
    assert bad([item])[0].reason.startswith("unreadable")
