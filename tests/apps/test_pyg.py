"""Splits as datasets of PyTorch Geometric: the same structures, labels and edges."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from source_cases import crystals, ingest

from gfm_pipeline.apps.dataset import Dataset, GraphTable
from gfm_pipeline.core.contracts.data import SourceSettings, Split
from gfm_pipeline.core.errors import DataError

pytest.importorskip("torch_geometric")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Dataset:
    folder = tmp_path_factory.mktemp("pyg")
    file = crystals(folder / "c.xyz", 30)
    return Dataset.open(ingest(folder, SourceSettings("c", "ase", (str(file),))))


def test_graphs_are_those_that_models_train_on(dataset):
    graphs = dataset.to_pyg("train", cutoff=4.0)
    columns = dataset.columns(Split.TRAIN)
    table = GraphTable.build(columns, 4.0, 0, dataset.statistics.references)
    assert len(graphs) == len(columns)
    for k in range(len(graphs)):
        graph = graphs[k]
        atoms = slice(table.atom_start[k], table.atom_start[k] + table.natoms[k])
        edges = slice(table.edge_start[k], table.edge_start[k] + table.nedges[k])
        assert graph.z.tolist() == table.z[atoms].tolist()
        assert np.array_equal(graph.forces.numpy(), table.atom_labels["forces"][atoms])
        assert graph.energy.item() == pytest.approx(table.graph_labels["energy"][k], rel=1e-6)
        lengths = np.sort(graph.edge_vec.norm(dim=1).numpy())
        vectors = table.pos[atoms][table.dst[edges]] - table.pos[atoms][table.src[edges]] + table.shift[edges]
        assert np.allclose(lengths, np.sort(np.linalg.norm(vectors, axis=1)), atol=1e-5)
        assert graph.edge_index.shape == (2, table.nedges[k])
        assert lengths.max() < 4.0


def test_its_loader_batches_them(dataset):
    from torch_geometric.loader import DataLoader

    graphs = dataset.to_pyg("train", cutoff=4.0)
    batch = next(iter(DataLoader(graphs, batch_size=4)))
    assert batch.num_graphs == 4
    assert batch.cell.shape == (4, 3, 3)
    assert batch.pbc.shape == (4, 3)
    assert batch.energy.shape == (4,)
    assert int(batch.edge_index.max()) < len(batch.z)
    vectors = batch.pos[batch.edge_index[1]] - batch.pos[batch.edge_index[0]]
    assert not torch.allclose(vectors, batch.edge_vec)  # periodic images are in it


def test_an_unknown_split_is_one_sentence(dataset):
    with pytest.raises(DataError, match="There is no split 'tset'"):
        dataset.to_pyg("tset", cutoff=4.0)
