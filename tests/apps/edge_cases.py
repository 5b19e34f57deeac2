"""Stored edges of small structures, and how they are compared."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ase import Atoms
from lattices import edge_sets

from gfm_pipeline.apps.dataset import Columns
from gfm_pipeline.apps.dataset.neighbors import edges
from gfm_pipeline.apps.dataset.neighbors.edges import Packed, select_edges
from gfm_pipeline.apps.dataset.store.edge_files import StoredEdges, edge_layout
from gfm_pipeline.apps.dataset.store.index import IndexWriter
from gfm_pipeline.core.contracts.data import Split

CUTOFF = 5.0


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
