"""Stored edges: packed and unpacked, the sets that are listed on the fly, the same bytes by any number of ranks."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.build import bulk, fcc111, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from edge_cases import CUTOFF, assert_same, columns_of, store
from lattices import edge_sets
from source_cases import ingest
from test_assemble_ranks import run_ranks

from gfm_pipeline.apps.dataset import Columns, Dataset
from gfm_pipeline.apps.dataset.batching.graph_source import DiskSource, read_table
from gfm_pipeline.apps.dataset.inspect import inspect
from gfm_pipeline.apps.dataset.neighbors import edges
from gfm_pipeline.apps.dataset.neighbors.edges import Packed, check_edges, select_edges
from gfm_pipeline.apps.dataset.store.bp_step import together
from gfm_pipeline.apps.dataset.store.edge_files import edge_files
from gfm_pipeline.core.contracts.data import AssembleSpec, SourceSettings, Split
from gfm_pipeline.core.contracts.layout import LAYOUT_FILE, DatasetInfo, InspectSpec
from gfm_pipeline.core.contracts.task import ExitCode
from gfm_pipeline.core.errors import IntegrityError

# --- from records to tables


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Ingest molecules, slabs and crystals without stored edges and with."""
    folder, rng, frames = tmp_path_factory.mktemp("edges"), np.random.default_rng(2), []
    for k in range(60):
        atoms = [
            molecule("CH3OH"),
            bulk("Cu", cubic=True),
            fcc111("Al", (2, 2, 2), vacuum=6.0, periodic=True),
            bulk("Po", "sc", a=2.5),
        ][k % 4]
        if k % 4 == 2:
            atoms.pbc = (True, True, False)
        atoms.positions += rng.normal(scale=0.05, size=atoms.positions.shape)
        atoms.info.clear()
        atoms.calc = SinglePointCalculator(atoms, energy=rng.normal(), forces=rng.normal(size=(len(atoms), 3)))
        atoms.info["run"] = f"run{k // 4}"
        frames.append(atoms)
    write(folder / "m.extxyz", frames)
    source = SourceSettings("m", "ase", (str(folder / "m.extxyz"),), group_key="run")
    return ingest(folder / "without", source), ingest(folder / "with", source, edges_within=CUTOFF)


@pytest.fixture
def searched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return how many atoms the structures have whose neighbours are searched from now on."""
    found: list[int] = []
    search = edges.half_lists

    def spy(pos: Any, cell: Any, pbc: Any, natoms: Any, which: Any, cutoff: float) -> Any:
        found.extend(natoms[which].tolist())
        return search(pos, cell, pbc, natoms, which, cutoff)

    monkeypatch.setattr(edges, "half_lists", spy)
    return found


@pytest.mark.parametrize("cutoff", [CUTOFF, 3.3])
@pytest.mark.parametrize("window", [0, 8])
def test_tables_have_the_edges_of_those_that_are_listed(
    both: tuple[Path, Path], searched: list[int], cutoff: float, window: int
) -> None:
    without, stored = (Dataset.open(folder, digests=True) for folder in both)
    reference = without.statistics.reference
    for split in Split:
        listed = read_table(without, split, cutoff, 0, {"energy": reference})
        wanted, graphs, index = edge_sets(listed), np.arange(0, len(listed), 2), stored.index(split)
        # molecules are not searched: all their distances are computed
        assert len(searched) == np.count_nonzero(without.columns(split).pbc.any(axis=1))
        searched.clear()
        assert index is not None
        source = DiskSource(stored, split, index, cutoff, 0, {"energy": reference}, window)
        some, place = source.table(graphs)
        source.close()
        held, few = (read_table(stored, split, cutoff, 0, {"energy": reference}, which) for which in (None, graphs))
        # pairs of the single atom in its cube lie at the cutoff itself: there the search decides, and nowhere else
        assert set(searched) == ({1} if cutoff == CUTOFF else set())
        searched.clear()
        assert edge_sets(held) == wanted
        assert edge_sets(few) == [wanted[g] for g in graphs]
        assert [edge_sets(some)[p] for p in place] == [wanted[g] for g in graphs]
        np.testing.assert_array_equal(held.degrees(), listed.degrees())


def test_real_structures_have_the_same_edges(real_data: Path, tmp_path: Path) -> None:
    for file in ("3bpa/train_mixedT.xyz", "mlearn/Cu_train.xyz"):
        columns = columns_of(read(real_data / file, index=":24"))
        packed = store(tmp_path, columns, CUTOFF).read(np.arange(len(columns)))
        for cutoff in (CUTOFF, 3.7):
            assert_same(columns, packed, cutoff)


def test_a_larger_cutoff_is_listed(both: tuple[Path, Path]) -> None:
    without, stored = (Dataset.open(folder) for folder in both)
    assert stored.edges(Split.TEST, CUTOFF) is not None
    assert stored.edges(Split.TEST, CUTOFF + 0.1) is None
    assert without.edges(Split.TEST, 1.0) is None
    tables = [read_table(d, Split.TEST, CUTOFF + 0.1, 0, d.statistics.references) for d in (without, stored)]
    assert edge_sets(tables[0]) == edge_sets(tables[1])


def test_predictions_are_those_without_stored_edges(both: tuple[Path, Path], tmp_path: Path) -> None:
    import torch
    from training_cases import small_spec

    from gfm_pipeline.apps.calibrate.predict import predict_columns
    from gfm_pipeline.apps.runtime.program import Task
    from gfm_pipeline.apps.train.checkpoint import load_model
    from gfm_pipeline.apps.train.task import train
    from gfm_pipeline.core.contracts.training import DatasetRef

    torch.set_num_threads(1)
    spec = small_spec((DatasetRef("m", str(both[1])),), tmp_path / "out")
    train(spec, Task(tmp_path))
    model, dataset = load_model(tmp_path / "out"), Dataset.open(both[1])
    columns, stored = dataset.columns(Split.TEST), dataset.edges(Split.TEST, model.card.spec.cutoff)
    assert stored is not None
    listed, chosen = (predict_columns(model, columns, "m", 5, edges=e) for e in (None, stored))
    assert listed.keys() == chosen.keys() == {"energy", "forces"}
    for name, values in listed.items():
        np.testing.assert_allclose(values, chosen[name], rtol=1e-5, atol=1e-5)


def test_only_edges_are_different(both: tuple[Path, Path]) -> None:
    files = [{p.relative_to(f): p for p in f.rglob("*") if p.is_file()} for f in both]
    names = {Path(name) for split in Split for name in edge_files(split)}
    assert files[1].keys() - files[0].keys() == names
    changed = {str(name) for name, path in files[0].items() if path.read_bytes() != files[1][name].read_bytes()}
    assert changed == {LAYOUT_FILE, "manifest.json", "ingest_report.md"}
    layouts = [json.loads((folder / LAYOUT_FILE).read_text()) for folder in both]
    assert layouts[0].keys() == {"chunk", "content", "files"}  # as before there were stored edges
    assert layouts[0]["content"] == layouts[1]["content"]
    assert "within 5 Å are stored" in (both[1] / "ingest_report.md").read_text()
    assert "stored" not in (both[0] / "ingest_report.md").read_text()


def test_info_and_verify_know_them(both: tuple[Path, Path]) -> None:
    without, stored = (inspect(InspectSpec("info", str(folder))) for folder in both)
    assert isinstance(stored, DatasetInfo)
    assert without.edges is None
    assert stored.edges is not None
    assert (stored.edges.cutoff, stored.edges.unpacked) == (CUTOFF, 0)
    arrays = [np.load(both[1] / edge_files(split)[0]) for split in Split]
    assert stored.edges.n_edges == sum(map(len, arrays))
    assert stored.edges.bytes == sum((both[1] / name).stat().st_size for s in Split for name in edge_files(s))
    assert inspect(InspectSpec("verify", str(both[1])))["structures"] == 60


# --- damage


@pytest.fixture
def damaged(both: tuple[Path, Path], tmp_path: Path) -> Path:
    return shutil.copytree(both[1], tmp_path / "copy")


@pytest.mark.parametrize("which", [0, 1])
def test_a_truncated_file_is_named(damaged: Path, which: int) -> None:
    path = damaged / edge_files(Split.TRAIN)[which]
    dataset = Dataset.open(damaged)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(IntegrityError, match=rf"{path.name} cannot be read"):
        dataset.edges(Split.TRAIN)
    path.unlink()
    with pytest.raises(IntegrityError, match=rf"{path.name} cannot be read"):
        dataset.edges(Split.TRAIN)
    with pytest.raises(IntegrityError, match=rf"{path.name} is missing"):
        Dataset.open(damaged)


@pytest.mark.parametrize("which", [0, 1])
def test_files_of_other_structures_are_named(damaged: Path, which: int) -> None:
    dataset = Dataset.open(damaged)
    path = damaged / edge_files(Split.TRAIN)[which]
    (damaged / edge_files(Split.TEST)[which]).rename(path)
    with pytest.raises(IntegrityError, match=rf"{path.name} does not hold"):
        dataset.edges(Split.TRAIN)


def test_edges_that_do_not_fit_are_found(damaged: Path) -> None:
    dataset = Dataset.open(damaged)
    path, beside = (damaged / name for name in edge_files(Split.TEST))
    whole, counts = np.load(path), np.load(beside)
    columns, every = dataset.columns(Split.TEST), np.arange(len(counts))
    stored = dataset.edges(Split.TEST)
    assert stored is not None
    select_edges(columns, stored.read(every), CUTOFF)
    del stored

    def refused(words: str, checks: Callable[[Columns, Packed], object]) -> None:
        found = dataset.edges(Split.TEST)
        assert found is not None
        with pytest.raises(IntegrityError, match=rf"{path.name} {words}"):
            checks(columns, found.read(every))

    def choose(of: Columns, packed: Packed) -> None:
        select_edges(of, packed, 3.3)

    begin = np.cumsum(counts) - counts
    np.save(path, np.where(np.isin(np.arange(len(whole)), begin), whole | 1000 << 24, whole))  # the shortest
    refused("has edges between atoms", check_edges)
    refused("has edges between atoms", choose)
    np.save(path, whole ^ 64 << 8)
    refused("has edges that are not within 5 A", check_edges)
    refused("has edges that are not within 5 A", choose)
    np.save(path, np.concatenate([whole[a : a + n][::-1] for a, n in zip(begin, counts, strict=True)]))
    refused("has edges that are not in the order", check_edges)
    np.save(path, whole)
    np.save(beside, counts + np.eye(1, len(counts), dtype=np.uint32)[0])
    refused("and the numbers of edges", choose)


def test_two_ranks_write_the_bytes_of_one_process(both: tuple[Path, Path], tmp_path: Path) -> None:
    shard, output = both[1].parent / "shard0", tmp_path / "ranks" / "m"
    source = SourceSettings("m", "ase", (str(both[1].parents[1] / "m.extxyz"),), group_key="run")
    spec = AssembleSpec(source, (str(shard),), 0.2, 0.2, 0.5, 5, str(output), edges_within=CUTOFF)
    small = (
        "import sys\nfrom gfm_pipeline.apps.ingest import assemble_mpi\n"
        "from gfm_pipeline.apps.ingest.assembly import shuffle, writer\n"
        "writer.CHUNK = shuffle.CHUNK = {chunk}\nsys.exit(assemble_mpi.main())\n"
    )
    found = []
    for ranks in (1, 2):  # chunks of 8, so that each rank has some of every split
        here = replace(spec, output=f"{output}{ranks}")
        done = run_ranks(tmp_path / f"attempt{ranks}", here, ranks, small.format(chunk=8))
        assert (done.returncode, done.stderr) == (ExitCode.OK, "")
        found.append(Dataset.open(Path(here.output), digests=True))
    one, several = found
    assert one.layout is not None
    assert several.layout is not None
    assert one.layout.edges == several.layout.edges
    assert len(one.layout.edges.splits[str(Split.TRAIN)].first) > 2  # type: ignore[union-attr]
    for split in Split:
        for name in edge_files(split):
            assert (one.path / name).read_bytes() == (several.path / name).read_bytes()
            assert np.array_equal(np.load(one.path / name), np.load(both[1] / name))
    if not together():
        assert one.digest == several.digest
