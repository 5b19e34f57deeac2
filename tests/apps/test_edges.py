"""Stored edges: packed and unpacked, the sets that are listed on the fly, the same bytes by any number of ranks."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from hypothesis import given, settings
from hypothesis import strategies as st
from lattices import edge_sets
from source_cases import ingest
from test_assemble_ranks import run_ranks

from gfm_pipeline.apps.dataset import Columns, Dataset
from gfm_pipeline.apps.dataset.batching.graph_source import DiskSource, read_table
from gfm_pipeline.apps.dataset.inspect import inspect
from gfm_pipeline.apps.dataset.neighbors import edges
from gfm_pipeline.apps.dataset.neighbors.edges import EDGE, UNPACKED, Packed, check_edges, pack, select_edges, unpack
from gfm_pipeline.apps.dataset.neighbors.neighbor_list import pairs_within
from gfm_pipeline.apps.dataset.store.bp_step import together
from gfm_pipeline.apps.dataset.store.edge_files import EdgeWriter, StoredEdges, edge_files, edge_layout, join_edges
from gfm_pipeline.apps.dataset.store.index import IndexWriter
from gfm_pipeline.core.contracts.data import AssembleSpec, SourceSettings, Split
from gfm_pipeline.core.contracts.layout import LAYOUT_FILE, DatasetInfo, InspectSpec
from gfm_pipeline.core.contracts.task import ExitCode
from gfm_pipeline.core.errors import IntegrityError

CUTOFF = 5.0
ATOM, IMAGE = st.integers(0, 2**20 - 1), st.tuples(*[st.integers(-127, 127)] * 3)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(ATOM, ATOM, IMAGE), max_size=20))
def test_what_is_packed_is_unpacked(listed: list[tuple[int, int, tuple[int, int, int]]]) -> None:
    src, dst = (np.array([e[k] for e in listed], dtype=np.int64) for k in range(2))
    image = np.array([e[2] for e in listed], dtype=np.int64).reshape(-1, 3)
    packed = pack(src, dst, image)
    assert packed is not None
    assert (packed.dtype, packed.shape) == (EDGE, (len(listed),))
    for found, wanted in zip(unpack(packed), (src, dst, image), strict=True):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(
    ("src", "dst", "image"),
    [(2**20, 0, (0, 0, 0)), (0, 2**20, (0, 0, 0)), (0, 0, (128, 0, 0)), (0, 0, (0, 0, -128))],
)
def test_what_does_not_fit_is_not_packed(src: int, dst: int, image: tuple[int, int, int]) -> None:
    assert pack(np.array([src, 1]), np.array([dst, 0]), np.array([image, (0, 0, 0)])) is None


# --- the same edges


def columns_of(frames: list[Atoms]) -> Columns:
    return Columns.build(
        numbers=np.concatenate([a.numbers for a in frames]),
        pos=np.concatenate([a.positions for a in frames]),
        forces=np.zeros((sum(map(len, frames)), 3)),
        energy=np.zeros(len(frames)),
        cell=np.array([a.cell.array for a in frames]),
        pbc=np.array([a.pbc for a in frames]),
        natoms=np.array([len(a) for a in frames]),
    )


def store(folder: Path, columns: Columns, cutoff: float, chunk: int = 4) -> StoredEdges:
    with IndexWriter(folder, {Split.TRAIN: len(columns)}, cutoff) as writer:
        writer.add(Split.TRAIN, columns)
    layout = edge_layout(folder, [Split.TRAIN], chunk, cutoff)
    return StoredEdges(folder, Split.TRAIN, len(columns), chunk, layout)


def assert_same(columns: Columns, stored: Packed, cutoff: float) -> None:
    assert edge_sets(select_edges(columns, stored, cutoff)) == edge_sets(edges.build_edges(columns, cutoff))


def mixed(rng: np.random.Generator, n: int = 12) -> list[Atoms]:
    """Return structures of every periodicity: molecules, slabs, wires, crystals in skewed cells, and single atoms."""
    frames: list[Atoms] = []
    for k in range(n):
        if k % 6 == 5:  # exactly on lattice sites: many pairs at one distance
            atoms = bulk("Po", "sc", a=float(rng.choice([2.5, 3.0, 5.0])))
        else:
            atoms = Atoms(
                "CuHON"[: 2 + 2 * (k % 2)] if k % 6 else "H",
                cell=np.eye(3) * rng.uniform(2.5, 6) + rng.uniform(-2, 2, (3, 3)),
                pbc=rng.random(3) < 0.7,
            )
            atoms.positions = rng.uniform(-8, 8, (len(atoms), 3))
            if abs(np.linalg.det(atoms.cell.array)) < 5:
                atoms.set_cell(np.eye(3) * 4)
        frames.append(atoms)
    return frames


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000), stored=st.sampled_from([4.0, 5.0, 6.0, 7.3]), share=st.sampled_from([0.4, 0.8, 1.0])
)
def test_chosen_edges_are_those_listed(
    tmp_path_factory: pytest.TempPathFactory, seed: int, stored: float, share: float
) -> None:
    columns = columns_of(mixed(np.random.default_rng(seed)))
    packed = store(tmp_path_factory.mktemp("e"), columns, stored).read(np.arange(len(columns)))
    check_edges(columns, packed)
    assert_same(columns, packed, stored * share)


def test_pairs_at_the_cutoff_are_decided_as_on_the_fly(tmp_path: Path) -> None:
    """The cutoff is the length of a pair, to the bit, as the search or as the stored edges have it."""
    rng = np.random.default_rng(1)
    columns = columns_of(mixed(rng, 30))
    stored = store(tmp_path, columns, 6.0)
    for g in range(len(columns)):
        one, packed = columns.take([g]), stored.read(np.array([g]))
        found = pairs_within(one.pos, one.cell[0], one.pbc[0], 5.9)[3]
        for length in rng.permutation(found)[:8]:
            for cutoff in (length, np.nextafter(length, 0), np.nextafter(length, 9)):
                assert_same(one, packed, float(cutoff))
    cubes = columns_of([bulk("Po", "sc", a=2.5).repeat((1 + k % 2, 1, 2)) for k in range(6)])
    at_shells = store(tmp_path, cubes, 5.0).read(np.arange(6))
    for cutoff in (2.5, 2.5 * np.sqrt(2), 5.0):
        assert_same(cubes, at_shells, cutoff)


def test_what_does_not_fit_is_listed_when_it_is_read(tmp_path: Path) -> None:
    far = Atoms("Cu2", positions=[[0, 0, 0], [300 * 2.6 + 1.3, 0, 0]], cell=np.eye(3) * 2.6, pbc=True)
    columns = columns_of([bulk("Cu"), far, molecule("H2O"), far])
    stored = store(tmp_path, columns, CUTOFF)
    packed = stored.read(np.arange(4))
    assert (packed.counts == UNPACKED).tolist() == [False, True, False, True]
    assert edge_layout(tmp_path, [Split.TRAIN], 4, CUTOFF).splits[str(Split.TRAIN)].unpacked == 2
    assert_same(columns, packed, CUTOFF)
    assert_same(columns, packed, 3.0)
    assert_same(columns.take([1]), stored.read(np.array([1])), CUTOFF)
    assert_same(columns.take([]), stored.read(np.zeros(0, np.int64)), CUTOFF)


@settings(max_examples=40, deadline=None)
@given(st.sets(st.integers(0, 20)), st.sampled_from([1, 2, 5, 8, 64]))
def test_any_structures_are_found(tmp_path_factory: pytest.TempPathFactory, chosen: set[int], chunk: int) -> None:
    folder, rng = tmp_path_factory.mktemp("e"), np.random.default_rng(0)
    wanted = [rng.integers(0, 9, (n, 5)) for n in rng.integers(0, 7, 21)]
    with EdgeWriter(folder, [Split.TEST]) as writer:
        for values in wanted:
            writer.add(Split.TEST, values[:, 0], values[:, 1], values[:, 2:])
    stored = StoredEdges(folder, Split.TEST, 21, chunk, edge_layout(folder, [Split.TEST], chunk, CUTOFF))
    graphs = np.array(sorted(chosen), dtype=np.int64)
    found = stored.read(graphs)
    assert found.counts.tolist() == [len(wanted[g]) for g in graphs]
    src, dst, image = unpack(found.edges)
    rows = np.concatenate([np.zeros((0, 5), np.int64), *(wanted[g] for g in graphs)])
    np.testing.assert_array_equal(np.column_stack([src, dst, image]), rows)


def test_parts_are_joined_to_the_bytes_of_one(tmp_path: Path) -> None:
    columns = columns_of(mixed(np.random.default_rng(5), 17))
    folders = [tmp_path / name for name in ("one", "a", "b", "c", "joined")]
    for folder in folders:
        folder.mkdir()
    store(folders[0], columns, CUTOFF)
    for folder, part in zip(folders[1:4], ([*range(8)], [], [*range(8, 17)]), strict=True):
        store(folder, columns.take(part), CUTOFF)
    join_edges(folders[4], [Split.TRAIN], folders[1:4])
    for name in edge_files(Split.TRAIN):
        assert (folders[4] / name).read_bytes() == (folders[0] / name).read_bytes()
        assert len(np.load(folders[4] / name)) > 0


# --- from records to tables


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Ingest molecules, slabs and crystals without stored edges and with."""
    folder, rng, frames = tmp_path_factory.mktemp("edges"), np.random.default_rng(2), []
    for k in range(60):
        atoms = [
            molecule("CH3OH"),
            bulk("Cu", cubic=True),
            fcc111("Al", (2, 2, 2), vacuum=6.0, periodic=True),
            bulk("Po", "sc", a=2.5),
        ][k % 4]
        if k % 4 == 2:
            atoms.pbc = (True, True, False)
        atoms.positions += rng.normal(scale=0.05, size=atoms.positions.shape)
        atoms.info.clear()
        atoms.calc = SinglePointCalculator(atoms, energy=rng.normal(), forces=rng.normal(size=(len(atoms), 3)))
        atoms.info["run"] = f"run{k // 4}"
        frames.append(atoms)
    write(folder / "m.extxyz", frames)
    source = SourceSettings("m", "ase", (str(folder / "m.extxyz"),), group_key="run")
    return ingest(folder / "without", source), ingest(folder / "with", source, edges_within=CUTOFF)


@pytest.fixture
def searched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return how many atoms the structures have whose neighbours are searched from now on."""
    found: list[int] = []
    search = edges.half_lists

    def spy(pos: Any, cell: Any, pbc: Any, natoms: Any, which: Any, cutoff: float) -> Any:
        found.extend(natoms[which].tolist())
        return search(pos, cell, pbc, natoms, which, cutoff)

    monkeypatch.setattr(edges, "half_lists", spy)
    return found


@pytest.mark.parametrize("cutoff", [CUTOFF, 3.3])
@pytest.mark.parametrize("window", [0, 8])
def test_tables_have_the_edges_of_those_that_are_listed(
    both: tuple[Path, Path], searched: list[int], cutoff: float, window: int
) -> None:
    without, stored = (Dataset.open(folder, digests=True) for folder in both)
    reference = without.statistics.reference
    for split in Split:
        listed = read_table(without, split, cutoff, 0, {"energy": reference})
        wanted, graphs, index = edge_sets(listed), np.arange(0, len(listed), 2), stored.index(split)
        # molecules are not searched: all their distances are computed
        assert len(searched) == np.count_nonzero(without.columns(split).pbc.any(axis=1))
        searched.clear()
        assert index is not None
        source = DiskSource(stored, split, index, cutoff, 0, {"energy": reference}, window)
        some, place = source.table(graphs)
        source.close()
        held, few = (read_table(stored, split, cutoff, 0, {"energy": reference}, which) for which in (None, graphs))
        # pairs of the single atom in its cube lie at the cutoff itself: there the search decides, and nowhere else
        assert set(searched) == ({1} if cutoff == CUTOFF else set())
        searched.clear()
        assert edge_sets(held) == wanted
        assert edge_sets(few) == [wanted[g] for g in graphs]
        assert [edge_sets(some)[p] for p in place] == [wanted[g] for g in graphs]
        np.testing.assert_array_equal(held.degrees(), listed.degrees())


def test_real_structures_have_the_same_edges(real_data: Path, tmp_path: Path) -> None:
    for file in ("3bpa/train_mixedT.xyz", "mlearn/Cu_train.xyz"):
        columns = columns_of(read(real_data / file, index=":24"))
        packed = store(tmp_path, columns, CUTOFF).read(np.arange(len(columns)))
        for cutoff in (CUTOFF, 3.7):
            assert_same(columns, packed, cutoff)


def test_a_larger_cutoff_is_listed(both: tuple[Path, Path]) -> None:
    without, stored = (Dataset.open(folder) for folder in both)
    assert stored.edges(Split.TEST, CUTOFF) is not None
    assert stored.edges(Split.TEST, CUTOFF + 0.1) is None
    assert without.edges(Split.TEST, 1.0) is None
    tables = [read_table(d, Split.TEST, CUTOFF + 0.1, 0, d.statistics.references) for d in (without, stored)]
    assert edge_sets(tables[0]) == edge_sets(tables[1])


def test_predictions_are_those_without_stored_edges(both: tuple[Path, Path], tmp_path: Path) -> None:
    import torch
    from training_cases import small_spec

    from gfm_pipeline.apps.calibrate.predict import predict_columns
    from gfm_pipeline.apps.runtime.program import Task
    from gfm_pipeline.apps.train.checkpoint import load_model
    from gfm_pipeline.apps.train.task import train
    from gfm_pipeline.core.contracts.training import DatasetRef

    torch.set_num_threads(1)
    spec = small_spec((DatasetRef("m", str(both[1])),), tmp_path / "out")
    train(spec, Task(tmp_path))
    model, dataset = load_model(tmp_path / "out"), Dataset.open(both[1])
    columns, stored = dataset.columns(Split.TEST), dataset.edges(Split.TEST, model.card.spec.cutoff)
    assert stored is not None
    listed, chosen = (predict_columns(model, columns, "m", 5, edges=e) for e in (None, stored))
    assert listed.keys() == chosen.keys() == {"energy", "forces"}
    for name, values in listed.items():
        np.testing.assert_allclose(values, chosen[name], rtol=1e-5, atol=1e-5)


def test_only_edges_are_different(both: tuple[Path, Path]) -> None:
    files = [{p.relative_to(f): p for p in f.rglob("*") if p.is_file()} for f in both]
    names = {Path(name) for split in Split for name in edge_files(split)}
    assert files[1].keys() - files[0].keys() == names
    changed = {str(name) for name, path in files[0].items() if path.read_bytes() != files[1][name].read_bytes()}
    assert changed == {LAYOUT_FILE, "manifest.json", "ingest_report.md"}
    layouts = [json.loads((folder / LAYOUT_FILE).read_text()) for folder in both]
    assert layouts[0].keys() == {"chunk", "content", "files"}  # as before there were stored edges
    assert layouts[0]["content"] == layouts[1]["content"]
    assert "within 5 Å are stored" in (both[1] / "ingest_report.md").read_text()
    assert "stored" not in (both[0] / "ingest_report.md").read_text()


def test_info_and_verify_know_them(both: tuple[Path, Path]) -> None:
    without, stored = (inspect(InspectSpec("info", str(folder))) for folder in both)
    assert isinstance(stored, DatasetInfo)
    assert without.edges is None
    assert stored.edges is not None
    assert (stored.edges.cutoff, stored.edges.unpacked) == (CUTOFF, 0)
    arrays = [np.load(both[1] / edge_files(split)[0]) for split in Split]
    assert stored.edges.n_edges == sum(map(len, arrays))
    assert stored.edges.bytes == sum((both[1] / name).stat().st_size for s in Split for name in edge_files(s))
    assert inspect(InspectSpec("verify", str(both[1])))["structures"] == 60


# --- damage


@pytest.fixture
def damaged(both: tuple[Path, Path], tmp_path: Path) -> Path:
    return shutil.copytree(both[1], tmp_path / "copy")


@pytest.mark.parametrize("which", [0, 1])
def test_a_truncated_file_is_named(damaged: Path, which: int) -> None:
    path = damaged / edge_files(Split.TRAIN)[which]
    dataset = Dataset.open(damaged)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(IntegrityError, match=rf"{path.name} cannot be read"):
        dataset.edges(Split.TRAIN)
    path.unlink()
    with pytest.raises(IntegrityError, match=rf"{path.name} cannot be read"):
        dataset.edges(Split.TRAIN)
    with pytest.raises(IntegrityError, match=rf"{path.name} is missing"):
        Dataset.open(damaged)


@pytest.mark.parametrize("which", [0, 1])
def test_files_of_other_structures_are_named(damaged: Path, which: int) -> None:
    dataset = Dataset.open(damaged)
    path = damaged / edge_files(Split.TRAIN)[which]
    (damaged / edge_files(Split.TEST)[which]).rename(path)
    with pytest.raises(IntegrityError, match=rf"{path.name} does not hold"):
        dataset.edges(Split.TRAIN)


def test_edges_that_do_not_fit_are_found(damaged: Path) -> None:
    dataset = Dataset.open(damaged)
    path, beside = (damaged / name for name in edge_files(Split.TEST))
    whole, counts = np.load(path), np.load(beside)
    columns, every = dataset.columns(Split.TEST), np.arange(len(counts))
    stored = dataset.edges(Split.TEST)
    assert stored is not None
    select_edges(columns, stored.read(every), CUTOFF)
    del stored

    def refused(words: str, checks: Callable[[Columns, Packed], object]) -> None:
        found = dataset.edges(Split.TEST)
        assert found is not None
        with pytest.raises(IntegrityError, match=rf"{path.name} {words}"):
            checks(columns, found.read(every))

    def choose(of: Columns, packed: Packed) -> None:
        select_edges(of, packed, 3.3)

    begin = np.cumsum(counts) - counts
    np.save(path, np.where(np.isin(np.arange(len(whole)), begin), whole | 1000 << 24, whole))  # the shortest
    refused("has edges between atoms", check_edges)
    refused("has edges between atoms", choose)
    np.save(path, whole ^ 64 << 8)
    refused("has edges that are not within 5 A", check_edges)
    refused("has edges that are not within 5 A", choose)
    np.save(path, np.concatenate([whole[a : a + n][::-1] for a, n in zip(begin, counts, strict=True)]))
    refused("has edges that are not in the order", check_edges)
    np.save(path, whole)
    np.save(beside, counts + np.eye(1, len(counts), dtype=np.uint32)[0])
    refused("and the numbers of edges", choose)


def test_two_ranks_write_the_bytes_of_one_process(both: tuple[Path, Path], tmp_path: Path) -> None:
    shard, output = both[1].parent / "shard0", tmp_path / "ranks" / "m"
    source = SourceSettings("m", "ase", (str(both[1].parents[1] / "m.extxyz"),), group_key="run")
    spec = AssembleSpec(source, (str(shard),), 0.2, 0.2, 0.5, 5, str(output), edges_within=CUTOFF)
    small = (
        "import sys\nfrom gfm_pipeline.apps.ingest import assemble_mpi\n"
        "from gfm_pipeline.apps.ingest.assembly import shuffle, writer\n"
        "writer.CHUNK = shuffle.CHUNK = {chunk}\nsys.exit(assemble_mpi.main())\n"
    )
    found = []
    for ranks in (1, 2):  # chunks of 8, so that each rank has some of every split
        here = replace(spec, output=f"{output}{ranks}")
        done = run_ranks(tmp_path / f"attempt{ranks}", here, ranks, small.format(chunk=8))
        assert (done.returncode, done.stderr) == (ExitCode.OK, "")
        found.append(Dataset.open(Path(here.output), digests=True))
    one, several = found
    assert one.layout is not None
    assert several.layout is not None
    assert one.layout.edges == several.layout.edges
    assert len(one.layout.edges.splits[str(Split.TRAIN)].first) > 2  # type: ignore[union-attr]
    for split in Split:
        for name in edge_files(split):
            assert (one.path / name).read_bytes() == (several.path / name).read_bytes()
            assert np.array_equal(np.load(one.path / name), np.load(both[1] / name))
    if not together():
        assert one.digest == several.digest
