"""Neighbour lists of many structures at once: the edges of brute force, whatever is batched with what."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from lattices import brute_force, in_order, random_lattices

from gfm_pipeline.apps.dataset.batched import Edges, ListBatched, list_each
from gfm_pipeline.apps.dataset.columns import Columns
from gfm_pipeline.common.errors import DataError

DEVICES = [torch.device("cpu"), *([torch.device("cuda", 0)] if torch.cuda.is_available() else [])]


def columns_of(n: int) -> Columns:
    """Return random cells, of which the positions are float32 as on disk."""
    pos, cell, pbc = zip(*random_lattices(n), strict=True)
    natoms = np.array([len(p) for p in pos])
    atoms, graphs = int(natoms.sum()), len(natoms)
    return Columns.build(
        numbers=np.ones(atoms),
        pos=np.concatenate(pos),
        forces=np.zeros((atoms, 3)),
        energy=np.zeros(graphs),
        cell=np.stack(cell),
        pbc=np.stack(pbc),
        natoms=natoms,
    )


def edges_of(edges: Edges, g: int) -> np.ndarray:
    first = int(edges.n[:g].sum())
    mine = slice(first, first + int(edges.n[g]))
    return in_order(np.column_stack([edges.src[mine], edges.dst[mine], edges.image[mine]]))


@pytest.mark.parametrize("device", DEVICES, ids=str)
def test_a_thousand_cells_at_once_have_the_edges_of_brute_force(device: torch.device) -> None:
    columns, checked = columns_of(1000), 0
    for cutoff in (2.0, 4.5):
        found, one_by_one = ListBatched(device)(columns, cutoff), list_each(columns, cutoff)
        assert int(found.n.sum()) == len(found.src) == len(found.dst) == len(found.image)
        checked += len(found.src)
        for g in range(len(columns)):
            atoms = slice(columns.offsets[g], columns.offsets[g + 1])
            pos, cell = columns.pos[atoms].astype(np.float64), columns.cell[g].astype(np.float64)
            expected = in_order(brute_force(pos, cell, columns.pbc[g], cutoff))
            np.testing.assert_array_equal(edges_of(found, g), expected)
            np.testing.assert_array_equal(edges_of(one_by_one, g), expected)
    assert checked > 50_000


def test_edges_do_not_depend_on_how_many_pairs_are_tried_at_once() -> None:
    columns = columns_of(60)
    whole = ListBatched(DEVICES[0])(columns, 4.5)
    for pairs in (1, 300, 5000):  # with the smallest every structure is listed by itself
        parts = ListBatched(DEVICES[0], pairs)(columns, 4.5)
        assert parts.n.tolist() == whole.n.tolist()
        for g in range(len(columns)):
            np.testing.assert_array_equal(edges_of(parts, g), edges_of(whole, g))


def test_no_structures_have_no_edges() -> None:
    found = ListBatched(DEVICES[0])(columns_of(3).take([]), 3.0)
    assert (len(found.n), len(found.src), found.image.shape) == (0, 0, (0, 3))


@pytest.mark.parametrize("pbc", [(True, True, True), (True, True, False), (False, False, True)])
@pytest.mark.parametrize("bad", [0.0, np.inf])
def test_a_periodic_cell_without_volume_is_refused(pbc: tuple[bool, ...], bad: float) -> None:
    good = columns_of(8)
    cell = np.eye(3) * 4.0
    cell[2 if pbc[2] else 1, :] = bad
    flat = Columns.build(
        numbers=np.ones(1),
        pos=np.zeros((1, 3)),
        forces=np.zeros((1, 3)),
        energy=np.zeros(1),
        cell=cell[None],
        pbc=np.array([pbc]),
        natoms=np.array([1]),
    )
    with pytest.raises(DataError, match="linearly dependent or zero"):
        ListBatched(DEVICES[0])(Columns.concatenate([good, flat]), 3.0)
