"""Neighbour lists of atoms that are anywhere: the edges of brute force, at a cost of the atoms and edges alone."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from hypothesis import given, settings
from hypothesis import strategies as st
from lattices import brute_force, edge_sets, in_order

from gfm_pipeline.apps.dataset.neighbors import neighbor_list as neighbours
from gfm_pipeline.apps.dataset.neighbors.batched import BatchedNeighborList
from gfm_pipeline.apps.dataset.neighbors.degrees import degrees_of
from gfm_pipeline.apps.dataset.neighbors.edges import build_edges
from gfm_pipeline.apps.dataset.neighbors.neighbor_list import neighbour_list, pairs_within, shortest_period
from gfm_pipeline.apps.dataset.store.columns import Columns
from gfm_pipeline.apps.ingest.checks.filters import faults
from gfm_pipeline.apps.ingest.records import Record
from gfm_pipeline.core.contracts.data import SourceSettings

ALL, NONE = (True, True, True), (False, False, False)


def found(pos: Any, cell: Any, pbc: Any, cutoff: float) -> np.ndarray:
    return in_order(np.column_stack(neighbour_list(pos, cell, np.array(pbc), cutoff)))


@settings(max_examples=250, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    pbc=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    atoms=st.integers(1, 8),
    away=st.sampled_from([0, 1, 3, 20, 400, 100_000]),
    skew=st.sampled_from([0.0, 0.3, 5.0, 20.0]),
    spread=st.sampled_from([0.0, 30.0, 3000.0, 1e6]),
    cutoff=st.sampled_from([1.5, 3.0, 5.0]),
    handed=st.sampled_from([1.0, -1.0]),
)
def test_atoms_anywhere_have_the_edges_of_brute_force(
    seed: int,
    pbc: tuple[bool, bool, bool],
    atoms: int,
    away: int,
    skew: float,
    spread: float,
    cutoff: float,
    handed: float,
) -> None:
    """Some atoms whole cells away, cells that are skewed or left-handed, clusters far apart where nothing repeats."""
    rng = np.random.default_rng(seed)
    sides = rng.uniform(2.0, 6.0, 3)
    cell = np.diag(sides * [1.0, 1.0, handed])
    cell[1, 0], cell[2, 0], cell[2, 1] = skew * rng.uniform(0.5, 1.0, 3) * sides
    cell = cell @ np.linalg.qr(rng.normal(size=(3, 3)))[0]
    periodic = np.array(pbc)
    pos = rng.uniform(0, 1, (atoms, 3)) @ cell
    pos += rng.integers(-away, away + 1, (atoms, 3)) * periodic @ cell
    if spread and not periodic.all():
        free = np.linalg.svd(cell[periodic])[2][int(periodic.sum()) :] if periodic.any() else np.eye(3)
        pos[atoms // 2 :] += spread * rng.normal(size=len(free)) @ free  # two clusters
    np.testing.assert_array_equal(found(pos, cell, pbc, cutoff), in_order(brute_force(pos, cell, periodic, cutoff)))


def columns_of(frames: list[Atoms]) -> Columns:
    natoms = np.array([len(atoms) for atoms in frames])
    return Columns.build(
        numbers=np.concatenate([atoms.numbers for atoms in frames]),
        pos=np.concatenate([atoms.positions for atoms in frames]),
        forces=np.zeros((int(natoms.sum()), 3)),
        energy=np.zeros(len(frames)),
        cell=np.stack([np.asarray(atoms.cell) for atoms in frames]),
        pbc=np.stack([atoms.pbc for atoms in frames]),
        natoms=natoms,
    )


def moved(atoms: Atoms, cells: Any) -> Atoms:
    """Return the structure with each atom moved by whole cells [N, 3], or the last one alone by [3]."""
    cells = np.asarray(cells)
    other = atoms.copy()
    shift = cells @ np.asarray(atoms.cell)
    if cells.ndim == 1:
        other.positions[-1] += shift
    else:
        other.positions += shift
    return other


def far_frames() -> list[Atoms]:
    rng = np.random.default_rng(2)
    copper = bulk("Cu", cubic=True).repeat(2)
    copper.rattle(0.05, rng=rng)
    slab = copper.copy()
    slab.pbc = (True, True, False)
    pair = molecule("H2O") + moved(Atoms(molecule("H2O"), cell=np.eye(3) * 2000), np.ones((3, 3)))
    crowd = Atoms("He150", positions=rng.uniform(0, 8, (150, 3)))
    crowd.positions[75:] += 1900.0
    return [
        moved(copper, rng.integers(-15, 16, (32, 3))),
        moved(copper, [100, 0, 0]),
        moved(copper, [400, -400, 400]),
        moved(copper, [40_000, 0, 0]),  # an image that 16 bits do not hold
        moved(slab, [300, 300, 0]),
        pair,
        crowd,
    ]


def test_both_paths_have_the_edges_of_brute_force_and_agree_to_the_bit() -> None:
    columns = columns_of(far_frames())
    listed, batched = build_edges(columns, 4.0), BatchedNeighborList(torch.device("cpu"))(columns, 4.0)
    assert edge_sets(listed) == edge_sets(batched)
    ends = np.cumsum(listed.nedges)
    for g, end in enumerate(ends.tolist()):
        first = end - int(listed.nedges[g])
        atoms = slice(columns.offsets[g], columns.offsets[g + 1])
        pos, cell = columns.pos[atoms].astype(np.float64), columns.cell[g].astype(np.float64)
        expected = in_order(brute_force(pos, cell, columns.pbc[g], 4.0))
        assert len(expected) > 0
        shift = (expected[:, 2:] @ cell).astype(np.float32)
        rows = np.column_stack([listed.src[first:end], listed.dst[first:end], listed.shift[first:end]])
        np.testing.assert_array_equal(in_order(rows), in_order(np.column_stack([expected[:, :2], shift])))


def test_memory_does_not_grow_with_the_distance_of_atoms(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the compiled search is given spans the atoms' cell, and no more boxes than the atoms ask for."""
    asked: list[tuple[float, float]] = []
    real = neighbours.find_points_in_spheres

    def spy(points: np.ndarray, centres: np.ndarray, **options: Any) -> Any:
        spans = np.ptp(points, axis=0)
        asked.append((float(np.prod(spans / options["r"] + 2)), len(points)))
        return real(points, centres, **options)

    monkeypatch.setattr(neighbours, "find_points_in_spheres", spy)
    tracemalloc.start()
    for atoms in far_frames():
        pairs_within(atoms.positions, np.asarray(atoms.cell), atoms.pbc, 5.0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20e6
    assert all(boxes < 32_768 + 64 * n for boxes, n in asked)


def test_ordinary_structures_are_searched_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that their edges, and what was computed from these, stay the same to the bit."""
    copper = bulk("Cu", cubic=True).repeat(3)
    copper.rattle(0.1, rng=np.random.default_rng(0))
    assert (copper.get_scaled_positions(wrap=False) < 0).any()
    given = []
    real = neighbours.find_points_in_spheres

    def spy(points: np.ndarray, centres: np.ndarray, **options: Any) -> Any:
        given.append((points.copy(), options["lattice"].copy()))
        return real(points, centres, **options)

    monkeypatch.setattr(neighbours, "find_points_in_spheres", spy)
    for atoms in (copper, molecule("C6H6"), bulk("Bi", "rhombohedral", a=4.7, alpha=57.0)):
        pairs_within(atoms.positions, np.asarray(atoms.cell), atoms.pbc, 5.0)
        np.testing.assert_array_equal(given[-1][0], atoms.positions)
        if atoms.pbc.all():
            np.testing.assert_array_equal(given[-1][1], np.asarray(atoms.cell))
    assert len(given) == 3


def test_unwrapped_atoms_have_the_degrees_of_wrapped_ones() -> None:
    frames = far_frames()[:5]
    wrapped = [atoms.copy() for atoms in frames]
    for atoms in wrapped:
        atoms.wrap()
    one, other = (columns_of(some) for some in (frames[:3] + frames[4:], wrapped[:3] + wrapped[4:]))
    np.testing.assert_array_equal(*(degrees_of(c.pos, c.cell, c.pbc, c.natoms) for c in (one, other)))


def record(pos: Any, cell: Any, pbc: Any) -> Record:
    pos = np.asarray(pos, dtype=float)
    return Record(
        np.full(len(pos), 29), pos, np.zeros_like(pos), -1.0, np.asarray(cell, float), np.array(pbc), "g", "f", 0, 0
    )


def test_cells_smaller_than_an_atom_are_set_aside_before_they_are_searched() -> None:
    """The search would list as many images as fit into the cutoff: billions in a cell of 0.001 Angstrom."""
    source = SourceSettings("x", "ase")
    skewed = [[0.2, 0, 0], [1e4 + 0.1, 0.2, 0], [0, 0, 30.0]]
    for cell, pbc in ((np.eye(3) * 1e-3, ALL), (np.diag([1e-3, 5, 5]), (True, False, False)), (skewed, ALL)):
        (reason,) = faults(record(np.zeros((1, 3)), cell, pbc), source)
        assert reason.startswith("atoms overlap: atoms and their own images are")
    assert list(faults(record(np.zeros((1, 3)), bulk("Cu").cell, ALL), source)) == []
    (reason,) = faults(record([[0, 0, 0], [1e12, 0, 0]], np.zeros((3, 3)), NONE), source)
    assert reason.startswith("positions or cell are beyond")


def test_the_nearest_image_of_a_skewed_cell_is_found() -> None:
    cell = np.array([[3.0, 0, 0], [2.9, 1.0, 0], [0, 0, 9.0]])
    assert shortest_period(cell, np.array(ALL)) == pytest.approx(np.hypot(0.1, 1.0))
    assert shortest_period(cell, np.array([True, False, True])) == pytest.approx(3.0)
    assert shortest_period(cell, np.array(NONE)) == np.inf
