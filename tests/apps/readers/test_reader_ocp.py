"""Open Catalyst data: pairs of text files as published, and LMDB files of pickled graphs, which may run nothing."""

from __future__ import annotations

import lzma
import pickle
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import lmdb
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.io import write
from conformance import N_RECORDS, Conformance, Expected, bad, good, read_all
from hypothesis import given, settings
from hypothesis import strategies as st

from gfm_pipeline.apps.ingest.files import safe_pickle


class TestText(Conformance):
    reader = "ocp-text"

    def write(self, folder: Path, expected: Expected) -> Path:
        frames, lines = [], []
        for k in range(N_RECORDS):
            atoms = Atoms(expected.numbers, expected.pos[k], cell=expected.cell, pbc=True)
            atoms.arrays["tags"] = np.array([0, 0, 1, 2])
            atoms.set_constraint(FixAtoms([0, 1]))
            results = {"energy": expected.energy[k], "free_energy": expected.energy[k] - 0.5}
            atoms.calc = SinglePointCalculator(atoms, forces=expected.forces[k], **results)
            frames.append(atoms)
            lines.append(f"random{k // 2},frame{k},{-90.0 - k}\n")
        columns = ["symbols", "positions", "move_mask", "tags", "forces"]
        write(folder / "7.extxyz", frames, columns=columns)
        (folder / "7.txt").write_text("".join(lines))
        return folder / "7.extxyz"

    def spoil(self, path: Path, index: int) -> None:
        lines = path.read_text().splitlines(keepends=True)
        lines[index * 6 + 3] = lines[index * 6 + 3].replace("H", "Qq", 1)
        path.write_text("".join(lines))

    def test_frames_of_a_system_are_a_group(self, path: Path) -> None:
        records = good(read_all(self.source(path)))
        assert [record.group for record in records] == ["random0"] * 2 + ["random1"] * 2 + ["random2"] * 2

    def test_energies_of_adsorption(self, path: Path, expected: Expected) -> None:
        records = good(read_all(self.source(path, options={"energy": "adsorption"})))
        np.testing.assert_allclose([r.energy for r in records], expected.energy + 90.0 + np.arange(N_RECORDS))

    def test_pairs_are_read_as_published(self, path: Path, expected: Expected) -> None:
        for file in (path, path.with_suffix(".txt")):
            file.with_name(file.name + ".xz").write_bytes(lzma.compress(file.read_bytes()))
            file.unlink()
        self.check(good(read_all(self.source(path.with_name("7.extxyz.xz")))), expected)

    def test_pairs_must_be_whole_and_fit(self, path: Path) -> None:
        labels = path.with_suffix(".txt")
        whole = labels.read_text()
        labels.write_text(whole + "random9,frame9,0.0\n")
        (broken,) = bad(read_all(self.source(path)))
        assert "more lines than the extxyz file has frames" in broken.reason
        labels.write_text("".join(whole.splitlines(keepends=True)[:-1]))
        assert [item.index for item in bad(read_all(self.source(path)))] == [N_RECORDS - 1]
        labels.unlink()
        (alone,) = read_all(self.source(path))
        assert "there is no 7.txt" in bad([alone])[0].reason


def module(name: str, **members: Any) -> ModuleType:
    made = ModuleType(name)
    for key, value in members.items():
        setattr(made, key, value)
    return made


class Data:
    """Pickles as `torch_geometric.data.data.Data` of versions 1 and 2 does; version 2 keeps its fields in a store."""

    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)


class GlobalStorage:
    def __init__(self, parent: Data, mapping: dict[str, Any]) -> None:
        self.__dict__.update(_mapping=mapping, _parent=parent)


@pytest.fixture
def geometric(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let pickles name PyTorch Geometric's classes while they are written."""
    prepare(monkeypatch)


def prepare(patch: pytest.MonkeyPatch) -> None:
    """Do that; benchmarks write these files too."""
    for name, cls in (("torch_geometric.data.data", Data), ("torch_geometric.data.storage", GlobalStorage)):
        patch.setattr(cls, "__module__", name)
        patch.setitem(sys.modules, name, module(name, **{cls.__name__: cls}))
    for name in ("torch_geometric", "torch_geometric.data"):
        patch.setitem(sys.modules, name, module(name))


@pytest.mark.usefixtures("geometric")
class TestLmdb(Conformance):
    reader = "ocp-lmdb"
    counts = True
    tolerance = 1e-5  # float32
    version: ClassVar[int] = 2

    def write(self, folder: Path, expected: Expected) -> Path:
        path = folder / "data.0000.lmdb"
        with lmdb.open(str(path), subdir=False, map_size=2**28) as environment, environment.begin(write=True) as txn:
            for k in range(N_RECORDS):
                fields = {
                    "pos": torch.tensor(expected.pos[k], dtype=torch.float32),
                    "cell": torch.tensor(expected.cell, dtype=torch.float32).view(1, 3, 3),
                    "atomic_numbers": torch.tensor(expected.numbers, dtype=torch.float32),
                    "natoms": 4,
                    "tags": torch.tensor([0, 0, 1, 2]),
                    "fixed": torch.tensor([1.0, 1, 0, 0]),
                    "edge_index": torch.tensor([[0, 1], [1, 0]]).t().contiguous().t(),
                    "y": float(expected.energy[k]),
                    "force": torch.tensor(expected.forces[k], dtype=torch.float32),
                    "sid": torch.LongTensor([1000 + k // 3]),
                    "fid": torch.LongTensor([k]),
                }
                txn.put(str(k).encode(), pickle.dumps(self.data(fields), protocol=-1))
            txn.put(b"length", pickle.dumps(N_RECORDS))
        return path

    def data(self, fields: dict[str, Any]) -> Any:
        if self.version == 1:
            return Data(x=None, edge_attr=None, **fields)
        data = Data()
        data.__dict__["_store"] = GlobalStorage(data, fields)
        return data

    def spoil(self, path: Path, index: int) -> None:
        with lmdb.open(str(path), subdir=False, map_size=2**28) as environment, environment.begin(write=True) as txn:
            txn.put(str(index).encode(), pickle.dumps(print))

    def cut(self, path: Path) -> None:
        path.write_bytes(path.read_bytes()[:9000])

    def test_frames_of_a_system_are_a_group(self, path: Path) -> None:
        assert [record.group for record in good(read_all(self.source(path)))] == ["1000"] * 3 + ["1001"] * 3


class TestOldLmdb(TestLmdb):
    version = 1


class Evil:
    def __init__(self, call: Any, *arguments: Any) -> None:
        self.made = call, arguments

    def __reduce__(self) -> Any:
        return self.made


@pytest.mark.parametrize(
    "call",
    [(eval, "1/0"), (exec, "raise SystemExit"), (getattr, "", "join"), (torch.load, "x"), (np.load, "x"), (print, "x")],
)
def test_pickles_that_call_something_are_refused(call: tuple[Any, ...]) -> None:
    with pytest.raises(pickle.UnpicklingError, match="the pickle asks for"):
        safe_pickle.fields(pickle.dumps({"pos": Evil(*call)}))


def test_pickles_inside_storages_are_refused_too() -> None:
    inner = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps(Evil(print, "x"), 2)
    with pytest.raises(pickle.UnpicklingError, match=r"the pickle asks for \w+\.print"):
        safe_pickle.fields(pickle.dumps(Evil(torch.storage._load_from_bytes, inner)))


@settings(max_examples=40, deadline=None)
@given(
    shape=st.lists(st.integers(0, 4), max_size=3),
    dtype=st.sampled_from(
        [torch.float64, torch.float32, torch.float16, torch.int64, torch.int32, torch.uint8, torch.bool]
    ),
    step=st.integers(1, 3),
)
def test_tensors_become_the_same_arrays(shape: list[int], dtype: torch.dtype, step: int) -> None:
    tensor = torch.arange(int(np.prod(shape, dtype=int)) * step).to(dtype)[::step].reshape(shape)
    views = [tensor, tensor.transpose(0, -1)] if shape else [tensor]
    for view in views:
        array = safe_pickle.fields(pickle.dumps(view))
        np.testing.assert_array_equal(array, view.numpy())
        assert array.dtype == view.numpy().dtype


def test_tensors_beyond_their_storage_are_refused() -> None:
    storage = torch.zeros(3).untyped_storage()
    reduced = torch.zeros(3).__reduce_ex__(2)
    function, (stored, *_rest) = reduced[0], reduced[1]
    assert storage is not None
    with pytest.raises(pickle.UnpicklingError, match="reaches beyond"):
        safe_pickle.fields(pickle.dumps(Evil(function, stored, 0, (1000,), (1,), False, {})))
