"""The dataset: HydraGNN's layout, manifests before ADIOS2, neighbour lists, batches."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import adios2.bindings as adios
import numpy as np
import pytest
import torch
from ase.data import chemical_symbols
from hydragnn_layout import independent_sample, random_columns, write_like_hydragnn
from lattices import brute_force, in_order, random_lattices

from gfm_pipeline.apps.dataset import (
    BpFile,
    Columns,
    Dataset,
    GraphTable,
    collate,
    neighbour_list,
    read_columns,
    write_bp,
)
from gfm_pipeline.apps.dataset.batching import collate as gather
from gfm_pipeline.apps.dataset.neighbors.edges import build_edges
from gfm_pipeline.apps.dataset.store import dataset as dataset_module
from gfm_pipeline.core.contracts.data import Split
from gfm_pipeline.core.contracts.dataset_statistics import DatasetStatistics
from gfm_pipeline.core.errors import DataError, IntegrityError
from gfm_pipeline.core.publish import publishing, write_record
from gfm_pipeline.models.batch import Batch

FIELDS = ("numbers", "pos", "forces", "energy", "cell", "pbc", "natoms", "offsets", "group", "origin", "graph_attr")


def assert_equal(a: Columns, b: Columns) -> None:
    for name in FIELDS:
        left, right = getattr(a, name), getattr(b, name)
        assert left.dtype == right.dtype, name
        np.testing.assert_array_equal(left, right, err_msg=name)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.mark.parametrize("sizes", [[3, 1, 5, 2], [4, 4, 4], [6]], ids=["ragged", "uniform", "single"])
def test_file_has_hydragnn_layout(tmp_path: Path, rng: np.random.Generator, sizes: list[int]) -> None:
    splits = {split: random_columns(rng, sizes) for split in Split}
    path = tmp_path / "demo.bp"
    write_bp(path, "demo", splits, {1: -13.5, 29: 2.0})

    with BpFile(path) as file:
        assert file.attribute("dataset_name") == ["demo"]
        assert file.attribute("total_ndata") == [3 * len(sizes)]
        coefficients = np.asarray(file.attribute("energy_linear_regression_coeff"))
        assert coefficients.shape == (118,)
        assert (coefficients[0], coefficients[28], coefficients[5]) == (-13.5, 2.0, 0.0)
        for split in Split:
            assert file.attribute(f"{split}/ndata") == [len(sizes)]
            assert sorted(file.attribute(f"{split}/keys")) == sorted(file.keys(split))
            assert_equal(read_columns(file, split), splits[split])

    for split, columns in splits.items():
        for g, n in enumerate(sizes):
            atoms = slice(columns.offsets[g], columns.offsets[g + 1])
            read = {key: independent_sample(path, split, key, g) for key in ("pos", "forces", "cell", "pbc", "energy")}
            np.testing.assert_array_equal(read["pos"], columns.pos[atoms])
            np.testing.assert_array_equal(read["forces"], columns.forces[atoms])
            np.testing.assert_array_equal(read["cell"], columns.cell[g])
            np.testing.assert_array_equal(read["pbc"], columns.pbc[g])
            assert read["energy"].dtype == np.float64
            assert read["energy"].tolist() == [[columns.energy[g]]]
            numbers = independent_sample(path, split, "atomic_numbers", g)
            assert numbers.shape == (n, 1)
            np.testing.assert_array_equal(numbers[:, 0], columns.numbers[atoms])
            per_atom = independent_sample(path, split, "energy_per_atom", g)
            np.testing.assert_allclose(per_atom, columns.energy[g] / n, rtol=1e-15)
            assert np.isnan(independent_sample(path, split, "graph_attr", g)).all()


def test_more_graphs_than_a_block(tmp_path: Path, rng: np.random.Generator) -> None:
    columns = random_columns(rng, rng.integers(1, 4, 5000).tolist())
    write_bp(tmp_path / "big.bp", "big", {Split.TRAIN: columns}, {})
    with BpFile(tmp_path / "big.bp") as file:
        assert_equal(read_columns(file, Split.TRAIN), columns)
        assert file.labels() == ["trainset"]


def test_equal_data_gives_equal_files(tmp_path: Path, rng: np.random.Generator) -> None:
    columns = random_columns(rng, [2, 3])
    contents = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_bp(tmp_path / name / "x.bp", "x", {Split.TRAIN: columns}, {})
        contents.append({p.name: p.read_bytes() for p in (tmp_path / name / "x.bp").iterdir()})
    assert contents[0] == contents[1]


def test_empty_split_is_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    columns = random_columns(rng, [2, 3])
    with pytest.raises(DataError, match="valset of demo is empty"):
        write_bp(tmp_path / "demo.bp", "demo", {Split.TRAIN: columns, Split.VALIDATION: columns.take([])}, {})


@pytest.mark.parametrize("edges", [[4, 6], [5, 5]], ids=["edges-vary", "edges-uniform"])
def test_reads_a_file_of_hydragnn(tmp_path: Path, rng: np.random.Generator, edges: list[int]) -> None:
    sizes = [3, 2]
    samples = []
    for n, n_edges in zip(sizes, edges, strict=True):
        z, pos, forces = rng.integers(1, 90, (n, 1)), rng.normal(size=(n, 3)), rng.normal(size=(n, 3))
        samples.append(
            {
                "x": np.concatenate([z, pos, forces], axis=1).astype(np.float32),
                "pos": pos.astype(np.float32),
                "forces": forces.astype(np.float32),
                "energy": np.array([[n * 1.5]], dtype=np.float32),
                "cell": np.eye(3, dtype=np.float32) * n,
                "pbc": np.array([1, 0, 1], dtype=np.int32),
                "edge_index": rng.integers(0, n, (2, n_edges)),
            }
        )
    write_like_hydragnn(tmp_path / "foreign.bp", samples)
    with BpFile(tmp_path / "foreign.bp") as file:
        columns = read_columns(file, Split.TRAIN)
        edge_index = file.read("trainset", "edge_index")
        for index, sample in enumerate(samples):
            np.testing.assert_array_equal(edge_index.sample(index), sample["edge_index"])
        assert edge_index.axis == (1 if edges[0] != edges[1] else 0)
    np.testing.assert_array_equal(columns.natoms, sizes)
    np.testing.assert_array_equal(columns.numbers, np.concatenate([s["x"][:, 0] for s in samples]))
    np.testing.assert_array_equal(columns.pos, np.concatenate([s["pos"] for s in samples]))
    np.testing.assert_array_equal(columns.cell, [np.eye(3) * n for n in sizes])
    np.testing.assert_array_equal(columns.pbc, [[True, False, True]] * 2)
    np.testing.assert_array_equal(columns.energy, [4.5, 3.0])


def publish_dataset(folder: Path, columns: Columns) -> None:
    counts = {str(s): len(columns) for s in Split}
    zero = {str(s): 0.0 for s in Split}
    statistics = DatasetStatistics(
        "demo", counts, counts, counts, ("H",), {"H": 0.0}, 1, "fit", 0.0, 0.0, zero, zero, 9, 0, {}
    )
    with publishing(folder, "test") as temporary:
        write_bp(temporary / "demo.bp", "demo", dict.fromkeys(Split, columns), {})
        write_record(temporary / "statistics.json", statistics)


@pytest.fixture
def published(tmp_path: Path, rng: np.random.Generator) -> tuple[Path, Columns]:
    columns = random_columns(rng, [2, 3])
    publish_dataset(tmp_path / "demo", columns)
    return tmp_path / "demo", columns


def test_opens_a_published_dataset(published: tuple[Path, Columns]) -> None:
    dataset = Dataset.open(published[0], digests=True)
    assert dataset.name == "demo"
    assert_equal(dataset.columns(Split.TEST), published[1])


def test_damage_is_refused_before_adios(published: tuple[Path, Columns], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = published[0]

    def never(*_: object) -> None:
        raise AssertionError("ADIOS2 was asked to open a damaged file")

    monkeypatch.setattr(dataset_module, "BpFile", never)
    data = folder / "demo.bp" / "data.0"
    content = data.read_bytes()
    data.write_bytes(content[: len(content) // 2])
    with pytest.raises(IntegrityError, match=r"data\.0 has"):
        Dataset.open(folder).columns(Split.TRAIN)
    flipped = bytearray(content)
    flipped[5] ^= 1
    data.write_bytes(bytes(flipped))
    with pytest.raises(IntegrityError, match="was changed"):
        Dataset.open(folder, digests=True).columns(Split.TRAIN)
    data.write_bytes(content)
    (folder / "manifest.json").unlink()
    with pytest.raises(IntegrityError, match="never finished"):
        Dataset.open(folder).columns(Split.TRAIN)


def test_a_file_in_another_layout_is_explained(tmp_path: Path) -> None:
    context = adios.ADIOS()  # must outlive the IO it declares
    io = context.DeclareIO("other")
    engine = io.Open(str(tmp_path / "other.bp"), adios.Mode.Write)
    engine.BeginStep()
    engine.EndStep()
    engine.Close()
    with BpFile(tmp_path / "other.bp") as file, pytest.raises(IntegrityError, match="no attribute trainset/pos"):
        read_columns(file, Split.TRAIN)


def test_neighbours_equal_brute_force() -> None:
    """On 1,000 cells, with their images, for a cutoff that most cells are thinner than and one that some are."""
    checked = several_images = beyond = alone = 0
    for number, (pos, cell, pbc) in enumerate(random_lattices(1000)):
        cutoff = (2.0, 4.5)[number % 2]
        src, dst, image = neighbour_list(pos, cell, pbc, cutoff)
        found = in_order(np.column_stack([src, dst, image]))
        np.testing.assert_array_equal(found, in_order(brute_force(pos, cell, pbc, cutoff)))
        np.testing.assert_array_equal(found, in_order(np.column_stack([dst, src, -image])))  # both directions
        checked += len(found)
        several_images += len(found) > len(np.unique(found[:, :2], axis=0))
        beyond += bool((np.linalg.norm(cell[pbc], axis=1) < cutoff).any())
        alone += len(pos) == 1
    assert checked > 50_000
    assert min(several_images, beyond, alone) > 150


def test_flat_periodic_cell_is_refused() -> None:
    cell = np.array([[1.0, 0, 0], [2.0, 0, 0], [0, 0, 1.0]])
    with pytest.raises(DataError, match="linearly dependent or zero"):
        neighbour_list(np.zeros((1, 3)), cell, np.ones(3, dtype=bool), 2.0)
    src, _, image = neighbour_list(np.zeros((1, 3)), cell, np.array([True, False, False]), 2.5)
    assert sorted(image[:, 0].tolist()) == [-2, -1, 1, 2]
    assert src.tolist() == [0, 0, 0, 0]


REFERENCE = {"H": -13.6, "C": -1030.25, "O": -2040.5, "Cu": 3.75}


@pytest.fixture
def tables(rng: np.random.Generator) -> tuple[list[Columns], list[GraphTable]]:
    columns = [random_columns(rng, rng.integers(1, 7, 20).tolist()), random_columns(rng, [1, 4, 2])]
    return columns, [GraphTable.build(c, 3.0, index + 4, {"energy": REFERENCE}) for index, c in enumerate(columns)]


@pytest.mark.parametrize("at_once", [1, 40, 1 << 20])
@pytest.mark.parametrize("both", [False, True], ids=["one-table", "two-tables"])
def test_batches_of_a_stretch_are_those_made_one_by_one(
    tables: tuple[list[Columns], list[GraphTable]],
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
    both: bool,
    at_once: int,
) -> None:
    monkeypatch.setattr(gather, "AT_ONCE", at_once)
    graphs = tables[1] if both else tables[1][:1]
    sizes = [3, 1, 7, 7, 2]
    which = rng.integers(0, len(graphs), sum(sizes))
    picked = np.array([rng.integers(0, len(graphs[k])) for k in which])
    together = gather.collate_batches(graphs, which, picked, sizes)
    ends = np.cumsum(sizes)
    for batch, first, end in zip(together, ends - sizes, ends, strict=True):
        alone = collate(graphs, which[first:end], picked[first:end])
        assert batch.labels.keys() == alone.labels.keys() == {"energy", "forces"}
        assert batch.attributes.keys() == alone.attributes.keys() == {"charge", "spin"}
        mapped = {"labels", "attributes", "weights"}
        plain = [name for name in Batch.__dataclass_fields__ if name not in mapped]
        pairs = [(getattr(batch, name), getattr(alone, name)) for name in plain]
        pairs += [(getattr(batch, m)[name], tensor) for m in mapped for name, tensor in getattr(alone, m).items()]
        for found, wanted in pairs:
            assert found.dtype == wanted.dtype
            assert found.is_contiguous()
            torch.testing.assert_close(found, wanted, rtol=0.0, atol=0.0, equal_nan=True)
    assert gather.collate_batches(graphs, which[:0], picked[:0], []) == []


@pytest.mark.parametrize(
    ("picked_tables", "picked_graphs"),
    [([0, 0, 0], [5, 0, 19]), ([1, 0, 0, 1, 1], [2, 7, 7, 0, 1]), ([1], [0])],
    ids=["one-table", "mixed", "one-graph"],
)
def test_collate_equals_a_naive_loop(
    tables: tuple[list[Columns], list[GraphTable]], picked_tables: list[int], picked_graphs: list[int]
) -> None:
    columns, graphs = tables
    batch = collate(graphs, np.array(picked_tables), np.array(picked_graphs))
    energy, forces = batch.labels["energy"], batch.labels["forces"]
    assert batch.pos.dtype == forces.dtype == energy.dtype == batch.edge_shift.dtype == torch.float32
    assert batch.z.dtype == batch.edge_src.dtype == batch.graph.dtype == batch.dataset.dtype == torch.int64
    first = edge = 0
    for b, (t, g) in enumerate(zip(picked_tables, picked_graphs, strict=True)):
        part = columns[t]
        atoms = slice(int(part.offsets[g]), int(part.offsets[g + 1]))
        n = int(part.natoms[g])
        here = slice(first, first + n)
        np.testing.assert_array_equal(batch.z[here], part.numbers[atoms])
        np.testing.assert_array_equal(batch.pos[here], part.pos[atoms])
        np.testing.assert_array_equal(forces[here], part.forces[atoms])
        assert (batch.graph[here] == b).all()
        assert int(batch.natoms[b]) == n
        assert int(batch.dataset[b]) == t + 4
        expected = part.energy[g] - sum(REFERENCE[chemical_symbols[z]] for z in part.numbers[atoms])
        assert energy[b].item() == np.float32(expected)
        alone = build_edges(part.take([g]), 3.0)
        src = alone.src
        edges = slice(edge, edge + len(src))
        np.testing.assert_array_equal(batch.edge_src[edges], src + first)
        np.testing.assert_array_equal(batch.edge_dst[edges], alone.dst + first)
        np.testing.assert_allclose(batch.edge_shift[edges], alone.shift, atol=1e-6)
        vector = batch.pos[batch.edge_dst[edges]] - batch.pos[batch.edge_src[edges]] + batch.edge_shift[edges]
        assert (vector.norm(dim=1) < 3.0 + 1e-5).all()
        first, edge = first + n, edge + len(src)
    assert first == len(batch.z)
    assert edge == len(batch.edge_src)


def test_large_offset_keeps_small_energy_differences(rng: np.random.Generator) -> None:
    columns = random_columns(rng, [3])
    energy = -2e6 + 0.001953125  # float32 has a spacing of 0.125 eV there
    shifted = replace(columns, graph_labels={"energy": np.array([energy])})
    share = dict.fromkeys(REFERENCE, -2000000.0 / 3)
    table = GraphTable.build(shifted, 3.0, 0, {"energy": share})
    assert collate([table], np.array([0]), np.array([0])).labels["energy"] == pytest.approx(0.001953125, abs=1e-8)


def test_element_without_reference_is_named(rng: np.random.Generator) -> None:
    with pytest.raises(DataError, match="no reference energy for"):
        GraphTable.build(random_columns(rng, [40]), 3.0, 0, {"energy": {"H": 0.0}})


def test_take_and_concatenate(rng: np.random.Generator) -> None:
    columns = random_columns(rng, [2, 1, 4, 3])
    order = [3, 0, 2, 1]
    taken = columns.take(order)
    assert taken.natoms.tolist() == [3, 2, 4, 1]
    assert_equal(Columns.concatenate([columns.take([0, 1]), columns.take([2, 3])]), columns)
    assert_equal(taken.take(np.argsort(order)), columns)
    present, composition = columns.composition()
    for g in range(4):
        numbers = columns.numbers[columns.offsets[g] : columns.offsets[g + 1]]
        assert composition[g].tolist() == [np.count_nonzero(numbers == z) for z in present]
