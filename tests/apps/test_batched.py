"""Neighbour lists of many structures at once: the edges of brute force, whatever is batched with what."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from lattices import brute_force, edge_sets, in_order, random_lattices
from training_cases import REFERENCE, lines, publish_dataset, small_spec

from gfm_pipeline.apps.calibrate import predict
from gfm_pipeline.apps.dataset import Dataset, GraphTable
from gfm_pipeline.apps.dataset.batching.graph_source import DiskSource, read_table
from gfm_pipeline.apps.dataset.neighbors.batched import BatchedNeighborList, neighbor_list_on
from gfm_pipeline.apps.dataset.neighbors.edges import UNPACKED, Edges, NeighborListFn, Packed, build_edges, select_edges
from gfm_pipeline.apps.dataset.store.columns import Columns
from gfm_pipeline.apps.runtime.program import Task
from gfm_pipeline.apps.train import setup
from gfm_pipeline.apps.train import task as program
from gfm_pipeline.core.contracts.data import Split
from gfm_pipeline.core.contracts.evaluation import PredictSpec
from gfm_pipeline.core.contracts.training import DatasetRef
from gfm_pipeline.core.errors import DataError

CPU = torch.device("cpu")
GPU = next((torch.device(m.__name__.split(".")[-1], 0) for m in (torch.cuda, torch.xpu) if m.is_available()), None)
on_gpu = pytest.mark.skipif(GPU is None, reason="torch sees no GPU here")

pytestmark = pytest.mark.usefixtures("one_thread")


class Recorded:
    """Lists on the CPU, in batches, and remembers in which threads it was called."""

    def __init__(self, pairs: int = 500) -> None:
        self._list, self.threads = BatchedNeighborList(CPU, pairs), list[str]()

    def __call__(self, columns: Columns, cutoff: float) -> Edges:
        self.threads.append(threading.current_thread().name)
        return self._list(columns, cutoff)


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


def edges_of(edges: Edges, columns: Columns) -> Iterator[np.ndarray]:
    """Yield src, dst and image [E, 5] of each structure, in one order."""
    ends = np.cumsum(edges.nedges)
    for g, (first, last) in enumerate(zip(ends - edges.nedges, ends, strict=True)):
        pbc, image = columns.pbc[g], np.zeros((last - first, 3), dtype=int)
        if pbc.any():
            image[:, pbc] = np.rint(edges.shift[first:last] @ np.linalg.pinv(columns.cell[g][pbc].astype(float)))
        yield in_order(np.column_stack([edges.src[first:last], edges.dst[first:last], image]))


def assert_brute_force(found: Edges, columns: Columns, cutoff: float) -> None:
    assert int(found.nedges.sum()) == len(found.src) == len(found.dst) == len(found.shift)
    for g, edges in enumerate(edges_of(found, columns)):
        atoms = slice(columns.offsets[g], columns.offsets[g + 1])
        pos, cell = columns.pos[atoms].astype(np.float64), columns.cell[g].astype(np.float64)
        np.testing.assert_array_equal(edges, in_order(brute_force(pos, cell, columns.pbc[g], cutoff)))


@pytest.mark.parametrize("device", [CPU, pytest.param(GPU, marks=on_gpu)], ids=str)
def test_a_thousand_cells_at_once_have_the_edges_of_brute_force(device: torch.device) -> None:
    columns, checked = columns_of(1000), 0
    for cutoff in (2.0, 4.5):
        found = BatchedNeighborList(device)(columns, cutoff)
        assert_brute_force(found, columns, cutoff)
        assert edge_sets(found) == edge_sets(build_edges(columns, cutoff))  # shifts to the bit
        checked += len(found.src)
    assert checked > 50_000


@on_gpu
def test_a_thread_lists_on_a_gpu_while_another_computes() -> None:
    assert GPU is not None
    columns, found, neighbor_list = columns_of(200), list[Edges](), BatchedNeighborList(GPU, 20_000)
    thread = threading.Thread(target=lambda: found.extend(neighbor_list(columns, 4.5) for _ in range(20)))
    a = torch.full((2048, 2048), 0.5, device=GPU)
    thread.start()
    products = []
    while thread.is_alive():
        products.append((a @ a)[0, 0].item())
    thread.join()
    assert set(products) <= {512.0}
    expected = edge_sets(build_edges(columns, 4.5))
    assert len(found) == 20
    assert all(edge_sets(edges) == expected for edges in found)


def test_edges_do_not_depend_on_how_many_pairs_are_tried_at_once() -> None:
    columns = columns_of(60)
    whole = BatchedNeighborList(CPU)(columns, 4.5)
    for pairs in (1, 300, 5000):  # with the smallest every structure is listed by itself
        assert edge_sets(BatchedNeighborList(CPU, pairs)(columns, 4.5)) == edge_sets(whole)


def test_the_order_of_edges_does_not_depend_on_what_is_listed_together() -> None:
    columns = columns_of(60)
    whole = BatchedNeighborList(CPU)(columns, 4.5)
    alone = [BatchedNeighborList(CPU)(columns.take([g]), 4.5) for g in range(len(columns))]
    for name in ("nedges", "src", "dst", "shift"):
        np.testing.assert_array_equal(np.concatenate([getattr(a, name) for a in alone]), getattr(whole, name))


def test_no_structures_have_no_edges() -> None:
    found = BatchedNeighborList(CPU)(columns_of(3).take([]), 3.0)
    assert (len(found.nedges), len(found.src), found.shift.shape) == (0, 0, (0, 3))


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
        BatchedNeighborList(CPU)(Columns.concatenate([good, flat]), 3.0)


# --- where it is used


def test_on_the_cpu_neighbours_are_listed_one_structure_after_the_other() -> None:
    assert neighbor_list_on(CPU) is build_edges


@on_gpu
def test_on_a_gpu_neighbours_are_listed_in_batches() -> None:
    assert GPU is not None
    assert isinstance(neighbor_list_on(GPU), BatchedNeighborList)


def test_what_is_stored_without_edges_is_listed_in_batches() -> None:
    columns, neighbor_list = columns_of(40), Recorded()
    packed = Packed(np.full(40, UNPACKED, np.uint32), np.zeros(0, np.int64), 4.0, Path("nowhere"))
    expected = edge_sets(build_edges(columns, 3.5))
    assert edge_sets(select_edges(columns, packed, 3.5, neighbor_list)) == expected
    assert edge_sets(GraphTable.build(columns, 3.5, 0, {"energy": {"H": 0.0}}, packed, neighbor_list)) == expected
    assert len(neighbor_list.threads) == 2


@pytest.fixture(scope="module")
def refs(tmp_path_factory: pytest.TempPathFactory) -> tuple[DatasetRef, ...]:
    return (publish_dataset(tmp_path_factory.mktemp("data"), "morse", 0, 1.0, block=8),)


@pytest.mark.parametrize("window", [0, 16])
def test_tables_have_the_edges_of_those_listed_one_by_one(refs: tuple[DatasetRef, ...], window: int) -> None:
    dataset, neighbor_list = Dataset.open(Path(refs[0].path)), Recorded()
    index = dataset.index(Split.TRAIN)
    assert index is not None
    graphs = np.arange(0, len(index), 3)
    source = DiskSource(dataset, Split.TRAIN, index, 1.3, 0, {"energy": REFERENCE}, window, neighbor_list)
    table, place = source.table(graphs)
    source.close()
    listed = edge_sets(read_table(dataset, Split.TRAIN, 1.3, 0, {"energy": REFERENCE}))
    assert [edge_sets(table)[p] for p in place] == [listed[g] for g in graphs]
    assert (
        edge_sets(read_table(dataset, Split.TRAIN, 1.3, 0, {"energy": REFERENCE}, neighbor_list=neighbor_list))
        == listed
    )
    assert len(neighbor_list.threads) == 2


def test_training_and_predictions_are_those_with_lists_one_by_one(
    refs: tuple[DatasetRef, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    neighbor_list, predicted = Recorded(), []
    choices: dict[str, Callable[[torch.device], NeighborListFn]] = {
        "plain": neighbor_list_on,
        "batched": lambda _: neighbor_list,
    }
    for name, choice in choices.items():
        monkeypatch.setattr(setup, "neighbor_list_on", choice)
        monkeypatch.setattr(predict, "neighbor_list_on", choice)
        folder, output = tmp_path / name, tmp_path / f"{name}-predictions"
        folder.mkdir()
        spec = replace(small_spec(refs, tmp_path / f"{name}-model"), window=16, budget_graphs=80, validate_every=40)
        program.train(spec, Task(folder))
        listed = list(neighbor_list.threads)
        predict.predict(PredictSpec(name, spec.output, refs, str(output)), Task(folder))
        assert (name == "plain") == (neighbor_list.threads == listed)
        predicted.append([dict(np.load(path)) for path in sorted(output.glob("*.npz"))])
    # the first structures, those of validation and of the fit of compositions before training, then while reading ahead
    ahead = listed.index("batch-loader")
    assert ahead >= 2
    assert set(listed[:ahead]) == {"MainThread"}
    assert set(listed[ahead:]) == {"batch-loader"}
    plain, batched = (lines(tmp_path / name) for name in choices)
    assert [line["graphs"] for line in batched] == [40, 80]
    for a, b in zip(plain, batched, strict=True):
        assert (b["train_loss"], b["objective"]) == pytest.approx((a["train_loss"], a["objective"]), rel=1e-4)
    assert [len(arrays) for arrays in predicted] == [4, 4]  # three splits, and the domain
    for one, other in zip(*predicted, strict=True):
        for key in one:
            np.testing.assert_allclose(other[key], one[key], rtol=1e-4, atol=1e-4)
