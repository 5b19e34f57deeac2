"""Stored edges: packing, the edges within a cutoff, and files of edges."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from edge_cases import CUTOFF, assert_same, columns_of, store
from hypothesis import given, settings
from hypothesis import strategies as st

from gfm_pipeline.apps.dataset.neighbors.edges import EDGE, UNPACKED, check_edges, pack, unpack
from gfm_pipeline.apps.dataset.neighbors.neighbor_list import pairs_within
from gfm_pipeline.apps.dataset.store.edge_files import EdgeWriter, StoredEdges, edge_files, edge_layout, join_edges
from gfm_pipeline.core.contracts.data import Split

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
