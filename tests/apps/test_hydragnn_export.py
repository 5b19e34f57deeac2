"""The file for HydraGNN: the samples of its foundation models, read by its rules, with edges that brute force finds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import adios2
import numpy as np
import pytest
from hydragnn_layout import independent_sample, random_columns
from lattices import brute_force
from source_cases import ingest, waters

from gfm_pipeline.apps.dataset import BpFile, Columns, Dataset, read_columns, write_bp
from gfm_pipeline.apps.dataset.inspect import inspect
from gfm_pipeline.apps.dataset.store import hydragnn_export
from gfm_pipeline.apps.dataset.store.hydragnn_export import export
from gfm_pipeline.core.contracts.data import SourceSettings, Split
from gfm_pipeline.core.contracts.dataset_statistics import DatasetStatistics
from gfm_pipeline.core.contracts.layout import ExportedEnergies, HydragnnExport, InspectSpec
from gfm_pipeline.core.errors import ConfigError
from gfm_pipeline.core.publish import publishing, write_record

# examples/multidataset_hpo_sc26/gfm_mlip_all_mpnn.py: it stops when a file lacks one of them
ASKED = [
    "pbc", "edge_attr", "energy_per_atom", "forces", "pos", "edge_index", "cell", "edge_shifts", "y",
    "chemical_composition", "natoms", "x", "energy", "graph_attr", "atomic_numbers",
]  # fmt: skip
REFERENCE = {"H": -13.0, "C": -1030.0, "O": -2040.0, "Cu": -45000.0}
NUMBERS = {1: "H", 6: "C", 8: "O", 29: "Cu"}


def publish(folder: Path, columns: Columns) -> Dataset:
    counts = {str(s): len(columns) for s in Split}
    atoms = {str(s): len(columns.numbers) for s in Split}
    zero = {str(s): 0.0 for s in Split}
    statistics = DatasetStatistics(
        "demo", counts, atoms, counts, tuple(REFERENCE), REFERENCE, 4, "fit", 0.0, 0.0, zero, zero, 9, 0, {}
    )
    with publishing(folder, "test") as temporary:
        write_bp(temporary / "demo.bp", "demo", dict.fromkeys(Split, columns), {}, block=4)
        write_record(temporary / "statistics.json", statistics)
    return Dataset.open(folder)


@pytest.fixture
def columns() -> Columns:
    """Crystals, mixed periodic directions, clusters, and an atom alone in the third block."""
    made = random_columns(np.random.default_rng(5), [3, 1, 5, 2, 4, 4, 6, 2, 1, 3, 7])
    pbc = made.pbc.copy()
    pbc[8] = False
    return replace(made, pbc=pbc)


@pytest.mark.parametrize("at_once", [1, 9, 20_000])
def test_samples_are_what_hydragnn_asks_for(
    columns: Columns, tmp_path: Path, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hydragnn_export, "AT_ONCE", at_once)
    dataset, path = publish(tmp_path / "demo", columns), tmp_path / "out" / "demo-v2.bp"
    done = export(dataset, path, HydragnnExport(3.0, 1000, name="ani1x"))
    truths = [graph(columns, g, 3.0) for g in range(len(columns))]
    kept = [g for g, truth in enumerate(truths) if len(truth)]
    assert len(kept) < len(columns)
    for split in Split:
        with BpFile(path) as file:
            assert file.attribute("dataset_name") == ["ani1x"]
            assert set(ASKED) <= set(file.attribute(f"{split}/keys"))
            assert file.attribute(f"{split}/ndata") == [len(kept)]
        with adios2.Stream(str(path), "r") as stream:  # as HydraGNN does, which cannot read a selection of nothing
            next(iter(stream.steps()))
            assert stream.read(f"{split}/edge_index/variable_count").min() > 0
        for index, g in enumerate(kept):
            sample = {key: independent_sample(path, split, key, index) for key in ASKED}
            check_edges(sample, truths[g], columns, g)
            check_labels(sample, columns, g)
    assert done.edges == 3 * sum(map(len, truths))
    assert (done.structures, done.left_out) == (3 * len(kept), 3 * (len(columns) - len(kept)))
    assert done.atoms_alone == 3 * sum(int(columns.natoms[g]) - len(set(truths[g][:, 1])) for g in kept)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def graph(columns: Columns, g: int, radius: float) -> Any:
    """Return source, target and image [E, 5] of the edges of a structure."""
    atoms = slice(columns.offsets[g], columns.offsets[g + 1])
    return brute_force(columns.pos[atoms].astype(float), columns.cell[g].astype(float), columns.pbc[g], radius)


def check_edges(sample: dict[str, Any], truth: Any, columns: Columns, g: int) -> None:
    pos, cell = columns.pos[columns.offsets[g] : columns.offsets[g + 1]].astype(float), columns.cell[g].astype(float)
    source, target = sample["edge_index"]
    assert sample["edge_index"].dtype == np.int64
    found = np.column_stack([source, target, np.round(sample["edge_shifts"] * 1e3)])
    wanted = np.column_stack([truth[:, :2], np.round((truth[:, 2:] @ cell).astype(np.float32) * 1e3)])
    assert set(map(tuple, found.tolist())) == set(map(tuple, wanted.tolist()))
    vectors = pos[target] - pos[source] + sample["edge_shifts"]
    np.testing.assert_allclose(sample["edge_attr"][:, 0], np.linalg.norm(vectors, axis=1), rtol=1e-5)
    assert sample["edge_attr"].shape == (len(truth), 1)


def check_labels(sample: dict[str, Any], columns: Columns, g: int) -> None:
    atoms = slice(columns.offsets[g], columns.offsets[g + 1])
    numbers = columns.numbers[atoms]
    residual = columns.energy[g] - sum(REFERENCE[NUMBERS[z]] for z in numbers.tolist())
    np.testing.assert_allclose(sample["energy"], [[residual]], rtol=1e-6)
    np.testing.assert_allclose(sample["y"], [residual], rtol=1e-6)
    np.testing.assert_allclose(sample["energy_per_atom"], [[residual / len(numbers)]], rtol=1e-6)
    assert sample["energy"].dtype == sample["y"].dtype == np.float32
    np.testing.assert_array_equal(
        sample["x"], np.column_stack([numbers, columns.pos[atoms], columns.forces[atoms]]).astype(np.float32)
    )
    composition = sample["chemical_composition"]
    assert composition.shape == (118, 1)
    assert composition.sum() == sample["natoms"][0] == len(numbers)
    assert all(composition[z - 1, 0] == (numbers == z).sum() for z in NUMBERS)
    np.testing.assert_array_equal(sample["pbc"], columns.pbc[g])
    np.testing.assert_array_equal(sample["cell"], columns.cell[g])


def test_the_shortest_edges_are_kept_and_counted(columns: Columns, tmp_path: Path) -> None:
    path = tmp_path / "demo.bp"
    export(publish(tmp_path / "demo", columns), path, HydragnnExport(3.5, 4))
    degrees, index = np.zeros(5, dtype=int), 0
    for g in range(len(columns)):
        truth = graph(columns, g, 3.5)
        if not len(truth):
            continue
        pos = columns.pos[columns.offsets[g] : columns.offsets[g + 1]].astype(float)
        _, target = independent_sample(path, "trainset", "edge_index", index)
        length = independent_sample(path, "trainset", "edge_attr", index)[:, 0]
        whole = np.linalg.norm(pos[truth[:, 1]] - pos[truth[:, 0]] + truth[:, 2:] @ columns.cell[g], axis=1)
        index += 1
        for atom in range(len(pos)):
            shortest = np.sort(whole[truth[:, 1] == atom])[:4]
            np.testing.assert_allclose(np.sort(length[target == atom]), shortest, rtol=1e-5)
            degrees[len(shortest)] += 1
    with BpFile(path) as file:
        np.testing.assert_array_equal(file.attribute("pna_deg"), degrees)


def ends(columns: Columns) -> tuple[list[bytes], list[float]]:
    """Return the positions of each structure, which tell it from others, and its energy."""
    atoms = zip(columns.offsets[:-1], columns.offsets[1:], strict=True)
    return [columns.pos[a:b].tobytes() for a, b in atoms], columns.energy.tolist()


@pytest.mark.parametrize("energies", ExportedEnergies)
def test_the_file_can_be_a_source(tmp_path: Path, energies: ExportedEnergies) -> None:
    source = SourceSettings("w", "ase", (str(waters(tmp_path / "w.xyz", 60)),), group_key="run", charge=1, spin=2)
    first = Dataset.open(ingest(tmp_path / "first", source))
    spec = InspectSpec(
        "export", str(first.path), output=str(tmp_path / "w.bp"), export=HydragnnExport(energies=energies)
    )
    assert inspect(spec).content == inspect(InspectSpec("info", str(first.path))).content
    again = Dataset.open(
        ingest(tmp_path / "again", replace(source, reader="hydragnn", files=(spec.output or "",), group_key=None))
    )
    assert again.statistics.n_groups == first.statistics.n_groups
    residual = energies is ExportedEnergies.RESIDUAL
    with adios2.FileReader(str(tmp_path / "w.bp")) as stream:
        assert ("energy_linear_regression_coeff" in stream.available_attributes()) is residual
    with BpFile(tmp_path / "w.bp") as file:
        for split in Split:
            ours, theirs = first.columns(split), read_columns(file, split)
            np.testing.assert_array_equal(theirs.forces, ours.forces)
            assert bool(np.abs(theirs.energy).max() < 5.0) is residual  # ten eV an atom otherwise
            if not residual:
                np.testing.assert_allclose(theirs.energy, ours.energy, rtol=1e-6)


def test_what_cannot_be_exported_leaves_nothing(columns: Columns, tmp_path: Path) -> None:
    dataset = publish(tmp_path / "demo", columns)
    with pytest.raises(ConfigError, match=r"No two atoms in trainset of demo are closer than 0\.001 A"):
        export(dataset, tmp_path / "x.bp", HydragnnExport(0.001))
    with pytest.raises(ConfigError, match="has no edges"):
        export(dataset, tmp_path / "x.bp", HydragnnExport(-1.0))
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="so there is no folder"):
        export(dataset, tmp_path / "file" / "x.bp", HydragnnExport())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["demo", "file"]
