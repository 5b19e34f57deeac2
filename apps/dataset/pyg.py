"""A split of a dataset as a dataset of PyTorch Geometric, for its loaders, transforms and models."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch_geometric.data import Data
from torch_geometric.data import Dataset as PygDataset

from gfm_pipeline.apps.dataset.neighbors.edges import build_edges
from gfm_pipeline.apps.dataset.store.dataset import Dataset
from gfm_pipeline.core.contracts.data import Split
from gfm_pipeline.core.errors import DataError

SPLITS = {"train": Split.TRAIN, "validation": Split.VALIDATION, "test": Split.TEST}


class PygSplit(PygDataset):  # type: ignore[misc]  # PyTorch Geometric is typed in part only
    """Structures of one split, read on demand.

    Each is a ``Data`` with ``z`` [N] atomic numbers, ``pos`` [N, 3] (Angstrom), ``cell`` [1, 3, 3] (rows are lattice
    vectors; zero where there is none), ``pbc`` [1, 3], ``edge_index`` [2, E] (source, target), ``edge_vec`` [E, 3] from
    source to target with periodic images included, and each label by the name of its target, without its reference:
    ``energy`` [1] (eV), ``forces`` [N, 3] (eV/Angstrom), and the dataset's other labels. A missing label is NaN.

    Parameters
    ----------
    dataset
        A checked dataset.
    split
        Which part of it.
    cutoff
        Edges join all pairs closer than this (Angstrom).
    transform
        Transform of PyTorch Geometric.
    """

    def __init__(self, dataset: Dataset, split: Split, cutoff: float, transform: Any = None) -> None:
        super().__init__(None, transform)
        self._rows = dataset.rows(split)
        self._cutoff = cutoff
        self._references = dataset.statistics.references

    def len(self) -> int:
        """Return the number of structures."""
        return len(self._rows)

    def get(self, idx: int) -> Data:
        """Return a structure."""
        from gfm_pipeline.apps.dataset.batching.graph_table import GraphTable

        columns = self._rows.read(np.array([idx], dtype=np.int64))
        table = GraphTable.build(columns, self._cutoff, 0, self._references, None, build_edges)
        pos = torch.from_numpy(table.pos)
        edges = torch.from_numpy(np.stack([table.src, table.dst]))
        vectors = pos[edges[1]] - pos[edges[0]] + torch.from_numpy(table.shift)
        return Data(
            z=torch.from_numpy(table.z),
            pos=pos,
            cell=torch.from_numpy(np.asarray(columns.cell, dtype=np.float32)),
            pbc=torch.from_numpy(np.asarray(columns.pbc, dtype=bool)),
            edge_index=edges,
            edge_vec=vectors,
            **{
                name: torch.from_numpy(np.asarray(array, dtype=np.float32))
                for name, array in (*table.graph_labels.items(), *table.atom_labels.items())
            },
        )


def to_pyg(dataset: Dataset, split: str, cutoff: float, transform: Any = None) -> PygSplit:
    """Return a split of a dataset for PyTorch Geometric; `PygSplit` describes its graphs.

    Raises
    ------
    DataError
        When no split has that name.
    """
    if split not in SPLITS:
        raise DataError(f"There is no split {split!r}.", f"Use one of: {', '.join(SPLITS)}.")
    return PygSplit(dataset, SPLITS[split], cutoff, transform)
