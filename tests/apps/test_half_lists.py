"""Edges of many crystals listed together: those of brute force, and of the search of one structure after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.io import read
from hypothesis import given, settings
from hypothesis import strategies as st
from lattices import brute_force, edge_sets, in_order, random_lattices

from gfm_pipeline.apps.dataset.neighbors import edges as listing
from gfm_pipeline.apps.dataset.neighbors import half_lists as halves
from gfm_pipeline.apps.dataset.neighbors.degrees import RADII, degrees_of
from gfm_pipeline.apps.dataset.neighbors.edges import Edges, build_edges
from gfm_pipeline.apps.dataset.neighbors.half_lists import half_lists
from gfm_pipeline.apps.dataset.neighbors.neighbor_list import neighbour_list
from gfm_pipeline.apps.dataset.store.columns import Columns


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


def one_by_one(columns: Columns, cutoff: float) -> list[list[tuple[Any, ...]]]:
    """Return the edges that the search of one structure after the other finds, shifts to the bit."""
    found = []
    for g in range(len(columns)):
        atoms = slice(columns.offsets[g], columns.offsets[g + 1])
        cell = columns.cell[g].astype(np.float64)
        src, dst, image = neighbour_list(columns.pos[atoms], cell, columns.pbc[g], cutoff)
        shift = np.zeros((len(src), 3), dtype=np.float32)
        listing.fill_shifts(image.astype(np.int32), columns.cell[[g]], np.array([len(src)]), shift)
        found.append(sorted(zip(src.tolist(), dst.tolist(), map(tuple, shift.tolist()), strict=True)))
    return found


def some_frames() -> list[Atoms]:
    rng = np.random.default_rng(1)
    slab = fcc111("Pt", (3, 3, 4), vacuum=8.0, periodic=True)
    slab.pbc = (True, True, False)
    wire = bulk("Cu", cubic=True).repeat((1, 1, 3))
    wire.pbc = (False, False, True)
    skewed = bulk("Cu", cubic=True).repeat(2)
    skewed.cell = np.array([[1, 0, 0], [2, 1, 0], [-1, 1, 1]]) @ np.asarray(skewed.cell)
    unwrapped = bulk("Cu", cubic=True).repeat(2)
    unwrapped.positions += rng.integers(-3, 4, (32, 3)) @ np.asarray(unwrapped.cell)
    left = bulk("NaCl", "rocksalt", a=5.64)
    left.cell = np.asarray(left.cell)[[1, 0, 2]]
    frames = [
        bulk("W"),  # one atom: its own images alone
        molecule("C6H6"),  # goes another way, and comes back between the others
        slab,
        bulk("Cu", cubic=True).repeat(3),
        wire,
        skewed,
        unwrapped,
        left,
        bulk("Bi", "rhombohedral", a=4.7, alpha=57.0),
        Atoms("He120", positions=rng.uniform(0, 12, (120, 3))),  # too large for all distances of molecules
    ]
    for atoms in frames:
        atoms.positions += rng.normal(scale=0.05, size=atoms.positions.shape)
    return frames


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return how many atoms the structures have that are searched one after the other from now on."""
    found: list[int] = []
    search = listing.neighbour_list

    def spy(pos: Any, *rest: Any) -> Any:
        found.append(len(pos))
        return search(pos, *rest)

    monkeypatch.setattr(listing, "neighbour_list", spy)
    return found


@pytest.mark.parametrize("cutoff", [2.0, 5.0, 9.0])
def test_many_together_have_the_edges_of_one_by_one(cutoff: float, alone: list[int]) -> None:
    columns = columns_of(some_frames() * 2)
    found = build_edges(columns, cutoff)
    assert not alone
    assert edge_sets(found) == one_by_one(columns, cutoff)
    assert len(found.src) > 100


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), cutoff=st.floats(0.5, 7.0), away=st.sampled_from([0, 1, 50, 100_000]))
def test_cells_of_any_shape_have_the_edges_of_brute_force(seed: int, cutoff: float, away: int) -> None:
    """Skewed and left-handed cells of one atom to forty, all mixes of periodic directions, atoms in other cells."""
    rng = np.random.default_rng(seed)
    frames = []
    while len(frames) < 5:
        cell = rng.normal(size=(3, 3)) * rng.choice([2.0, 5.0, 9.0], size=(3, 1))
        if abs(np.linalg.det(cell)) < 0.1 * np.prod(np.linalg.norm(cell, axis=1)):
            continue
        n, pbc = int(rng.choice([1, 2, 7, 40])), rng.random(3) < 0.7
        pos = rng.uniform(-0.3, 1.3, (n, 3)) @ cell + (rng.integers(-away, away + 1, (n, 3)) * pbc) @ cell
        frames.append(Atoms(f"Cu{n}", positions=pos, cell=cell, pbc=pbc))
    columns = columns_of(frames)
    found = build_edges(columns, cutoff)
    ends = np.cumsum(found.nedges)
    for g, end in enumerate(ends.tolist()):
        atoms = slice(columns.offsets[g], columns.offsets[g + 1])
        pos, cell = columns.pos[atoms].astype(np.float64), columns.cell[g].astype(np.float64)
        expected = brute_force(pos, cell, columns.pbc[g], cutoff)
        shift = (expected[:, 2:] @ np.where(columns.pbc[g][:, None], cell, 0.0)).astype(np.float32)
        these = slice(end - int(found.nedges[g]), end)
        rows = np.column_stack([found.src[these], found.dst[these], found.shift[these]])
        rows, wanted = in_order(rows), in_order(np.column_stack([expected[:, :2], shift]))
        assert len(rows) == len(wanted)
        np.testing.assert_allclose(rows[:, 2:].sum(0), wanted[:, 2:].sum(0), rtol=1e-6, atol=1e-3 * (1 + away))
        np.testing.assert_array_equal(in_order(rows[:, :2]), in_order(wanted[:, :2]))


def test_random_lattices_have_the_edges_of_one_by_one() -> None:
    frames = [Atoms(f"C{len(pos)}", positions=pos, cell=cell, pbc=pbc) for pos, cell, pbc in random_lattices(300)]
    columns = columns_of(frames)
    for cutoff in (2.0, 4.5):
        assert edge_sets(build_edges(columns, cutoff)) == one_by_one(columns, cutoff)


def test_float32_decides_nothing() -> None:
    """Shells of perfect crystals a hair inside and outside of the cutoff, and far from the origin."""
    frames = [bulk("Cu", cubic=True, a=4.0).repeat(3) for _ in range(3)]
    frames[1].positions += 500.0
    columns = columns_of(frames)
    for cutoff in (4.0 * np.sqrt(0.5), 4.0, 4.0 * np.sqrt(1.5)):
        for by in (-1e-4, 1e-4):  # positions are float32
            found = build_edges(columns, float(cutoff) + by)
            degree = np.bincount(np.repeat(columns.offsets[:-1], found.nedges) + found.dst, minlength=324)
            assert len(set(degree.tolist())) == 1
            assert edge_sets(found) == one_by_one(columns, float(cutoff) + by)


def test_edges_and_their_order_do_not_depend_on_what_is_listed_together(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = columns_of(some_frames())
    whole = build_edges(columns, 5.0)
    monkeypatch.setattr(halves, "_COPIES", 1)
    apart = build_edges(columns, 5.0)
    single = [build_edges(columns.take([g]), 5.0) for g in range(len(columns))]
    for name in ("nedges", "src", "dst", "shift"):
        np.testing.assert_array_equal(getattr(apart, name), getattr(whole, name))
        np.testing.assert_array_equal(np.concatenate([getattr(e, name) for e in single]), getattr(whole, name))


def test_large_structures_are_left_to_linked_cells(alone: list[int]) -> None:
    large = bulk("Cu", cubic=True).repeat(7)
    columns = columns_of([bulk("Cu", cubic=True), large, molecule("H2O"), bulk("W")])
    found = build_edges(columns, 4.0)
    assert alone == [len(large)]
    alone.clear()
    assert edge_sets(found) == one_by_one(columns, 4.0)


def test_no_pair_is_listed_in_both_directions() -> None:
    columns = columns_of(some_frames())
    for half in half_lists(columns.pos, columns.cell, columns.pbc, columns.natoms, np.arange(len(columns)), 5.0):
        rows = np.column_stack([half.first() + half.src, half.first() + half.dst, half.images()]).tolist()
        pairs = {tuple(row) for row in rows}
        assert len(pairs) == len(rows) > 0
        assert not pairs & {(j, i, -x, -y, -z) for i, j, x, y, z in pairs}


def test_degrees_are_those_of_the_edges() -> None:
    columns = columns_of(some_frames())
    degrees = degrees_of(columns.pos, columns.cell, columns.pbc, columns.natoms)
    for k, radius in enumerate(RADII):
        found: Edges = build_edges(columns, radius)
        counted = np.bincount(np.repeat(columns.offsets[:-1], found.nedges) + found.src, minlength=len(degrees))
        np.testing.assert_array_equal(degrees[:, k], counted)


def test_real_crystals_have_the_edges_of_one_by_one(real_data: Any) -> None:
    columns = columns_of(read(real_data / "mlearn/Cu_train.xyz", index=":40"))
    assert edge_sets(build_edges(columns, 5.0)) == one_by_one(columns, 5.0)
