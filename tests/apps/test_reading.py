"""Reading for training: windows, random access, what is known beforehand, and the thread that reads ahead."""

from __future__ import annotations

import threading
import time
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from training_cases import REFERENCE, assert_same_state, lines, morse_columns, publish_dataset, small_spec

from gfm_pipeline.apps.dataset import Dataset, GraphTable, collate
from gfm_pipeline.apps.dataset.batching.graph_source import DiskSource, InMemorySource
from gfm_pipeline.apps.dataset.batching.prefetch import Prefetcher
from gfm_pipeline.apps.dataset.neighbors.degrees import RADII, Degrees
from gfm_pipeline.apps.dataset.store.index import GraphIndex, count, index_file, rows_of
from gfm_pipeline.apps.dataset.store.rows import BlockReader, runs
from gfm_pipeline.apps.runtime.program import StopRequested, Task
from gfm_pipeline.apps.train import setup
from gfm_pipeline.apps.train.batch_loader import BatchLoader
from gfm_pipeline.apps.train.sampler import EpochOrder, Sampler
from gfm_pipeline.apps.train.setup import open_source
from gfm_pipeline.apps.train.task import train
from gfm_pipeline.core.contracts.data import Split
from gfm_pipeline.core.contracts.training import DatasetRef, TrainSpec
from gfm_pipeline.core.errors import IntegrityError
from gfm_pipeline.models.batch import Batch

BLOCK = 8  # graphs of a block of the test datasets


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def refs(tmp_path_factory) -> tuple[DatasetRef, ...]:
    folder = tmp_path_factory.mktemp("data")
    return tuple(
        publish_dataset(folder, name, seed, 1.0, n=(n, 24, 24), block=BLOCK)
        for name, seed, n in (("soft", 0, 96), ("uneven", 10, 61))
    )


def sources(
    refs: tuple[DatasetRef, ...], window: int, ranks: int = 1, cutoff: float = 3.0
) -> list[InMemorySource | DiskSource]:
    base = small_spec(refs, Path("unused"))
    spec = replace(base, window=window, model=replace(base.model, cutoff=cutoff))
    return [open_source(spec, Dataset.open(Path(r.path)), k, {"energy": REFERENCE}, ranks) for k, r in enumerate(refs)]


# --- the order


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 120), st.integers(1, 20), st.integers(1, 6), st.integers(0, 5))
def test_a_pass_has_every_graph_once_and_a_window_has_whole_blocks(size, block, window, seed):
    passes = EpochOrder(size, (seed, 2, 0), block, window)
    three = passes.draw(np.arange(3 * size)).reshape(3, size)
    np.testing.assert_array_equal(np.sort(three, axis=1), np.tile(np.arange(size), (3, 1)))
    for turn in three:
        done = 0
        while done < size:  # the next window begins where the blocks seen so far are complete, and no later
            seen: dict[int, int] = {}
            for graph in turn[done:]:
                seen[graph // block] = seen.get(graph // block, 0) + 1
                done += 1
                whole = all(n == min(block, size - b * block) for b, n in seen.items())
                if whole and (len(seen) == window or done == size):
                    break
            assert len(seen) <= window
    # any draws in any order, alone
    some = np.random.default_rng(seed).integers(0, 3 * size, 20)
    np.testing.assert_array_equal(EpochOrder(size, (seed, 2, 0), block, window).draw(some), three.ravel()[some])


def test_windows_are_shuffled_within_and_across():
    passes = EpochOrder(10_000, (0, 2, 0), 100, 5)
    first, second = passes.draw(np.arange(20_000)).reshape(2, -1)
    blocks = [set((turn[:500] // 100).tolist()) for turn in (first, second)]
    assert len(blocks[0]) == 5
    assert blocks[0] != blocks[1]  # other windows in the next pass
    assert max(blocks[0]) - min(blocks[0]) > 5  # of blocks from anywhere
    assert len(set((first[:50] // 100).tolist())) == 5  # mixed from the first batch on


def test_blocks_do_not_change_the_order_of_what_fits_a_window():
    plain, windowed = Sampler([50, 200], 2.0, 7), Sampler([50, 200], 2.0, 7, [None, 25], 8)
    np.testing.assert_array_equal(plain.batch(40, 900), windowed.batch(40, 900))


# --- reading


def test_random_access_is_what_reading_everything_gives(refs):
    for ref in refs:
        dataset = Dataset.open(Path(ref.path))
        whole = dataset.columns(Split.TRAIN)
        rng = np.random.default_rng(0)
        with dataset.rows(Split.TRAIN) as rows:
            blocks = BlockReader(rows, 2)
            for n in (0, 1, 2, 5, 30, len(whole)):
                graphs = np.sort(rng.permutation(len(whole))[:n])
                expected = whole.take(graphs)
                for found in (rows.read(graphs), blocks.read(graphs), dataset.columns(Split.TRAIN, graphs)):
                    np.testing.assert_equal(asdict(found), asdict(expected))
            assert len(blocks._kept) <= 2
            for wrong in ([len(whole)], [-1, 2], [3, 3], [4, 2]):
                with pytest.raises(IntegrityError, match="not those asked for"):
                    rows.read(np.array(wrong))


@given(st.sets(st.integers(0, 60)))
def test_runs_are_the_numbers(numbers):
    graphs = np.array(sorted(numbers), dtype=np.int64)
    firsts, ends = runs(graphs)
    again = [np.arange(a, b) for a, b in zip(firsts, ends, strict=True)]
    np.testing.assert_array_equal(np.concatenate([np.zeros(0, np.int64), *again]), graphs)
    assert (firsts[1:] > ends[:-1]).all()


def test_the_index_knows_sizes_labels_and_edges():
    columns = morse_columns(3, 40, 1.0)
    columns.energy[3], columns.forces[columns.offsets[5]] = np.nan, np.nan
    degrees = count(columns)
    index = GraphIndex(rows_of(columns, degrees))
    graphs = np.array([5, 3, 39, 0])
    for cutoff in RADII:
        table = GraphTable.build(columns, cutoff, 0, {"energy": REFERENCE})
        facts = index.facts(graphs, cutoff)
        energies, forces = (table.label_counts()[name] for name in ("energy", "forces"))
        for found, expected in (
            (facts.natoms, table.natoms),
            (facts.nedges, table.nedges),
            (facts.energies, energies),
            (facts.forces, forces),
        ):
            np.testing.assert_array_equal(found, expected[graphs])
    between = [index.facts(graphs, cutoff).nedges for cutoff in (0.5, 3.0, 3.5, 4.0, 7.0)]
    assert all((a <= b).all() for a, b in pairwise(between))
    table = GraphTable.build(columns, 4.0, 0, {"energy": REFERENCE})
    statistics = Degrees.of(degrees).statistics()[RADII.index(4.0)]
    assert statistics.mean == pytest.approx(table.degrees().mean())
    assert statistics.mean_log == pytest.approx(np.log1p(table.degrees()).mean())
    assert (statistics.minimum, statistics.maximum) == (table.degrees().min(), table.degrees().max())


def test_a_wrong_index_is_refused(refs, tmp_path):
    dataset = Dataset.open(Path(refs[0].path))
    assert len(dataset.index(Split.TRAIN)) == 96
    np.save(tmp_path / index_file(Split.TRAIN), np.zeros((95, 7), np.uint32))
    with pytest.raises(IntegrityError, match="not an index of 96 structures"):
        replace(dataset, path=tmp_path).index(Split.TRAIN)
    (tmp_path / index_file(Split.TRAIN)).write_bytes(b"\x93NUMPY")
    with pytest.raises(IntegrityError, match="cannot be read"):
        replace(dataset, path=tmp_path).index(Split.TRAIN)


# --- what a rank gets


def graphs_of(batch: Batch) -> list[tuple[int, float, int]]:
    """Name the graphs of a batch by what identifies them."""
    return list(zip(batch.dataset.tolist(), batch.labels["energy"].tolist(), batch.natoms.tolist(), strict=True))


@pytest.mark.parametrize(("batch", "ranks"), [(8, 1), (8, 3), (5, 5), (13, 4), (100, 3)])
def test_ranks_share_each_batch_and_nothing_is_read_twice_or_left(refs, monkeypatch, batch, ranks):
    """On any number of ranks, the batches are those that one rank draws from data in memory."""
    monkeypatch.setattr(setup, "SPARSE", 4)  # from that many on, each reads its own graphs only
    held, disk = sources(refs, 10**6), sources(refs, 16)
    alone = BatchLoader(held, Sampler([96, 61], 2.0, 5, [BLOCK, BLOCK], 2), batch)
    sampler = Sampler([96, 61], 2.0, 5, [BLOCK, BLOCK], 2)
    loaders = [
        BatchLoader(sources(refs, 16, ranks), sampler, batch, rank, ranks, prefetch_graphs=24) for rank in range(ranks)
    ]
    assert all(isinstance(s, InMemorySource) for s in held)
    assert all(isinstance(s, DiskSource) for s in disk)
    try:
        for step in (0, 1, 2, 40, 41, 7):
            (whole,), counts = alone.local_batches(step * batch)
            found = [loader.local_batches(step * batch) for loader in loaders]
            dealt = [graph for parts, _ in found for part in parts for graph in graphs_of(part)]
            assert sorted(dealt) == sorted(graphs_of(whole))
            assert all(c == counts for _, c in found)
            if ranks == 1:
                one = found[0][0][0]
                for name in set(whole.__dataclass_fields__) - {"labels", "attributes", "weights"}:
                    assert torch.equal(getattr(one, name), getattr(whole, name)), name
                for kind in ("labels", "weights", "attributes"):
                    same, expected = getattr(one, kind), getattr(whole, kind)
                    assert same.keys() == expected.keys()
                    for name in expected:  # a charge that is not stated is NaN
                        torch.testing.assert_close(same[name], expected[name], rtol=0.0, atol=0.0, equal_nan=True)
    finally:
        for loader in loaders:
            loader.close()


def test_a_feed_is_the_same_from_any_step_on(refs):
    sampler = Sampler([96, 61], 2.0, 5, [BLOCK, BLOCK], 2)
    first = BatchLoader(sources(refs, 16), sampler, 8, prefetch_graphs=100)
    expected = [first.local_batches(k * 8)[0][0] for k in range(60)]
    for start in (1, 12, 59):
        loader = BatchLoader(sources(refs, 16), sampler, 8, prefetch_graphs=100)
        for k in range(start, min(start + 3, 60)):
            (batch,), _ = loader.local_batches(k * 8)
            assert torch.equal(batch.pos, expected[k].pos)
            assert torch.equal(batch.edge_shift, expected[k].edge_shift)
        loader.close()
    first.close()


def test_memory_is_bounded_by_the_window(refs):
    (source, _) = sources(refs, 16)
    sampler = Sampler([96], 1.0, 0, [BLOCK], 2)
    for k in range(0, 96, 4):
        _, graph = sampler.batch(k, 4)
        source.table(np.unique(graph))
        assert len(source._reader._kept) <= 4
    source.close()


# --- the thread


def test_what_is_made_ahead_is_one_item_and_errors_come_in_order():
    made = []

    def items():
        for k in range(5):
            made.append(k)
            yield k
        raise ValueError("the disk is gone")

    ahead = Prefetcher(items(), "t")
    deadline = time.monotonic() + 5
    while len(made) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert made == [0, 1]  # one waits, one is held by the thread
    assert [ahead.get() for _ in range(5)] == [0, 1, 2, 3, 4]
    for _ in range(2):
        with pytest.raises(ValueError, match="the disk is gone"):
            ahead.get()
    ahead.close()
    assert not any(t.name == "t" for t in threading.enumerate())


def test_a_consumer_may_leave_at_any_time():
    ahead = Prefetcher(iter(range(10**9)), "leaving")
    assert ahead.get() == 0
    ahead.close()
    assert not any(t.name == "leaving" for t in threading.enumerate())


# --- training


@pytest.fixture
def spec(refs, tmp_path) -> TrainSpec:
    return replace(small_spec(refs, tmp_path / "output"), window=16)


class StopAt(Task):
    looks = -1

    @property
    def stop_requested(self) -> bool:
        self.looks -= 1
        return self.looks == -1


def test_training_from_disk_goes_on_bit_for_bit_and_leaves_no_thread(spec, tmp_path):
    (tmp_path / "whole").mkdir()
    whole = train(spec, Task(tmp_path / "whole"))[0]
    held = replace(spec, window=10**6, output=str(tmp_path / "held"))
    (tmp_path / "h").mkdir()
    assert train(held, Task(tmp_path / "h"))[0].objective != whole.objective  # another order of graphs
    spec = replace(spec, output=str(tmp_path / "pieces"))
    attempts: list[str] = []
    for looks in (17, 5):
        folder = tmp_path / f"a{looks}"
        folder.mkdir()
        task = StopAt(folder)
        task.looks = looks
        with pytest.raises(StopRequested):
            train(replace(spec, previous_attempts=tuple(attempts)), task)
        attempts.append(str(folder))
    (tmp_path / "last").mkdir()
    result = train(replace(spec, previous_attempts=tuple(attempts)), Task(tmp_path / "last"))[0]
    assert_same_state(whole.checkpoint, result.checkpoint)
    found = [Path(a) for a in attempts if (Path(a) / "progress.jsonl").exists()]
    assert lines(*found, tmp_path / "last") == lines(tmp_path / "whole")
    assert not any(t.name == "loader" for t in threading.enumerate())


def test_what_cannot_be_read_ends_training_with_its_sentence(spec, tmp_path, monkeypatch):
    def broken(*_):
        raise IntegrityError("block 3 cannot be read.")

    monkeypatch.setattr(DiskSource, "table", broken)
    with pytest.raises(IntegrityError, match="block 3"):
        train(spec, Task(tmp_path))
    assert not any(t.name == "loader" for t in threading.enumerate())


def test_collate_of_no_edges_is_a_batch():
    table = GraphTable.build(morse_columns(0, 4, 1.0), None, 0, {"energy": REFERENCE})
    batch = collate([table], np.zeros(2, np.int64), np.array([3, 1]))
    assert batch.edge_src.shape == (0,)
    assert batch.edge_shift.shape == (0, 3)
    assert batch.natoms.tolist() == table.natoms[[3, 1]].tolist()
