"""How fast training batches are delivered, beside other ways to store and read the same structures.

    pip install torch_geometric lmdb
    python benchmarks/reading.py [--graphs 16384] [--window 8192] [--batch 32] [--seconds 4]

Everybody delivers shuffled batches of 32 with atomic numbers, positions, forces, energies, cells where it stores them,
and the structure of every atom, without edges (nobody here stores them):

``feed``           this project: windows of blocks from ADIOS2, shuffled in and across, one flat ``Batch``; last row:
                   with neighbours, as training has it
``adios2.Stream``  one read of each variable of each structure, and torch_geometric's ``Batch.from_data_list``
``LMDB``           pickled ``Data``, one per structure, and the same
``memmap``         numpy arrays mapped from the same disk and gathered a batch at a time: what a file could give at best

Structures are random ones of 3 to 40 atoms. Rates are graphs per second of processor time (wall time in brackets), the
thread that reads ahead included; files are in the page cache for everyone. All take turns, and medians are printed: a
shared machine is not equally fast at all times. The last column is ``feed`` over the row's in the same turn.
"""

from __future__ import annotations

import argparse
import pickle
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from gfm_pipeline.apps.dataset import Columns, Dataset, write_bp
from gfm_pipeline.apps.dataset.batching.graph_source import DiskSource
from gfm_pipeline.apps.dataset.neighbors.degrees import RADII
from gfm_pipeline.apps.dataset.store.columns import flat_ranges
from gfm_pipeline.apps.dataset.store.index import index_file
from gfm_pipeline.apps.train.batch_loader import BatchLoader
from gfm_pipeline.apps.train.device import keep_freed_memory
from gfm_pipeline.apps.train.sampler import Sampler
from gfm_pipeline.core.contracts.data import Split
from gfm_pipeline.core.contracts.dataset_statistics import DatasetStatistics
from gfm_pipeline.core.publish import publishing, write_record

REFERENCE = {"H": 0.0, "C": 0.0, "O": 0.0}
Deliver = Iterator[int]  # graphs of each batch
TURNS = 7
SETTLE = 0.15  # seconds


def structures(n: int) -> Columns:
    """Return random molecules of 3 to 40 atoms."""
    rng = np.random.default_rng(0)
    natoms = rng.integers(3, 41, n)
    atoms = int(natoms.sum())
    return Columns.build(
        numbers=rng.choice([1, 6, 8], atoms),
        pos=rng.uniform(0, 1, (atoms, 3)) * np.repeat(1.6 * natoms ** (1 / 3), natoms)[:, None],
        forces=rng.normal(size=(atoms, 3)),
        energy=rng.normal(size=n),
        cell=np.zeros((n, 3, 3)),
        pbc=np.zeros((n, 3)),
        natoms=natoms,
    )


def publish(folder: Path, columns: Columns) -> Path:
    """Publish a dataset whose training split is ``columns``."""
    few = columns.take(np.arange(8))
    splits = {Split.TRAIN: columns, Split.VALIDATION: few, Split.TEST: few}
    counts = {str(s): len(c) for s, c in splits.items()}
    zero = dict.fromkeys(counts, 0.0)
    facts = DatasetStatistics(
        "b", counts, counts, counts, ("H", "C", "O"), REFERENCE, 3, "fit", 1.0, 1.0, zero, zero, 40, 0, {}
    )
    rows = np.zeros((len(columns), 3 + len(RADII)), dtype=np.uint32)
    rows[:, 0], rows[:, 1], rows[:, 2] = columns.natoms, 1, columns.natoms
    with publishing(folder / "b", "benchmark") as place:
        write_bp(place / "b.bp", "b", splits, {})
        np.save(place / index_file(Split.TRAIN), rows)
        write_record(place / "statistics.json", facts)
    return folder / "b"


def feed(path: Path, window: int, batch: int, cutoff: float | None) -> Deliver:
    """Deliver as training does."""
    dataset = Dataset.open(path)
    index = dataset.index(Split.TRAIN)
    if index is None:
        raise SystemExit("the index was not written")
    source = DiskSource(dataset, Split.TRAIN, index, cutoff, 0, REFERENCE, window)
    block = source.block or window
    ready = BatchLoader([source], Sampler([len(index)], 1.0, 0, [block], max(1, window // block)), batch)
    try:
        step = 0
        while True:
            for part in ready.local_batches(step * batch)[0]:
                yield len(part.natoms)
            step += 1
    finally:
        ready.close()


def shuffled(n: int, batch: int) -> Iterator[np.ndarray[Any, Any]]:
    """Yield the indices of batches, passes without replacement."""
    rng = np.random.default_rng(0)
    while True:
        order = rng.permutation(n)
        for start in range(0, n - batch + 1, batch):
            yield order[start : start + batch]


def stream(path: Path, n: int, batch: int) -> Deliver:
    """Deliver by one read a variable and structure, with PyG's collate."""
    adios2, data = import_module("adios2"), import_module("torch_geometric.data")
    with adios2.FileReader(str(path / "b.bp")) as file:
        label = "trainset"
        keys = ("atomic_numbers", "pos", "forces", "energy", "cell")
        count = {key: file.read(f"{label}/{key}/variable_count") for key in keys}
        offset = {key: file.read(f"{label}/{key}/variable_offset") for key in keys}
        for graphs in shuffled(n, batch):
            members = []
            for g in graphs.tolist():
                values = {
                    key: torch.from_numpy(
                        file.read(
                            f"{label}/{key}",
                            [int(offset[key][g]), 0],
                            [int(count[key][g]), 1 if key in ("atomic_numbers", "energy") else 3],
                        )
                    )
                    for key in keys
                }
                members.append(data.Data(z=values["atomic_numbers"].long(), **{k: values[k] for k in keys[1:]}))
            yield data.Batch.from_data_list(members).num_graphs


def lmdb(folder: Path, columns: Columns, batch: int) -> Deliver:
    """Deliver from pickled PyG structures, with PyG's collate."""
    store, data = import_module("lmdb"), import_module("torch_geometric.data")
    place = folder / "lmdb"
    with store.open(str(place), map_size=1 << 32) as database, database.begin(write=True) as transaction:
        for g in range(len(columns)):
            atoms = slice(columns.offsets[g], columns.offsets[g + 1])
            record = data.Data(
                z=torch.from_numpy(columns.numbers[atoms].astype(np.int64)),
                pos=torch.from_numpy(columns.pos[atoms].copy()),
                forces=torch.from_numpy(columns.forces[atoms].copy()),
                energy=torch.tensor([columns.energy[g]]),
                cell=torch.from_numpy(columns.cell[g].copy()),
            )
            transaction.put(g.to_bytes(8, "big"), pickle.dumps(record, protocol=5))
    with store.open(str(place), readonly=True, lock=False, readahead=False) as database:
        for graphs in shuffled(len(columns), batch):
            with database.begin() as transaction:
                packed = [transaction.get(g.to_bytes(8, "big")) for g in graphs.tolist()]
                # unpickled as this alternative does it, and only what was pickled a few lines above
                members = [pickle.loads(record) for record in packed]  # noqa: S301 - our own, see above
            yield data.Batch.from_data_list(members).num_graphs


def memmap(folder: Path, columns: Columns, batch: int) -> Deliver:
    """Deliver by gathering from mapped columns."""
    names = ("numbers", "pos", "forces", "energy", "natoms", "cell")
    for name in names:
        np.save(folder / f"{name}.npy", getattr(columns, name))
    mapped = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in names}
    offsets = columns.offsets
    for graphs in shuffled(len(columns), batch):
        natoms = mapped["natoms"][graphs]
        atoms = flat_ranges(offsets[graphs], natoms)
        tensors = [
            torch.from_numpy(mapped["numbers"][atoms].astype(np.int64)),
            torch.from_numpy(mapped["pos"][atoms]),
            torch.from_numpy(mapped["forces"][atoms]),
            torch.from_numpy(mapped["energy"][graphs].astype(np.float32)),
            torch.from_numpy(mapped["cell"][graphs]),
            torch.from_numpy(np.repeat(np.arange(len(graphs)), natoms)),
        ]
        yield len(tensors[3])


def stretch(batches: Deliver, seconds: float) -> tuple[float, float]:
    """Return graphs per second of processor and of wall time over ``seconds`` of processor time."""
    began, wall, done = time.process_time(), time.perf_counter(), 0
    while time.process_time() - began < seconds:
        done += next(batches)
    return done / (time.process_time() - began), done / (time.perf_counter() - wall)


def measured(ways: dict[str, Callable[[], Deliver]], seconds: float) -> dict[str, list[tuple[float, float]]]:
    """Return the rates of each way in each turn, so that a machine that slows down does so for all."""
    ready: dict[str, Deliver] = {}
    for title, make in ways.items():
        try:
            batches = make()
            next(batches)  # opens files, imports
        except ImportError as error:
            print(f"{title:16} left out: {error}")
            continue
        ready[title] = batches
    found: dict[str, list[tuple[float, float]]] = {title: [] for title in ready}
    for _ in range(TURNS):
        for title, batches in ready.items():
            time.sleep(SETTLE)  # until threads that read ahead have done so
            stretch(batches, SETTLE)  # and what they read is used up
            found[title].append(stretch(batches, seconds / TURNS))
    for batches in ready.values():
        batches.close()  # type: ignore[attr-defined]
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--graphs", type=int, default=16_384)
    parser.add_argument("--window", type=int, default=8192)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=4.0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # as training does; all ways have it
    columns = structures(given.graphs)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = publish(folder, columns)
        ways: dict[str, Callable[[], Deliver]] = {
            "feed": lambda: feed(path, given.window, given.batch, None),
            "memmap": lambda: memmap(folder, columns, given.batch),
            "LMDB": lambda: lmdb(folder, columns, given.batch),
            "adios2.Stream": lambda: stream(path, given.graphs, given.batch),
            "feed + edges": lambda: feed(path, given.window, given.batch, 5.0),
        }
        print(f"{given.graphs} structures, batches of {given.batch}, windows of {given.window}")
        found = measured(ways, given.seconds)
    print(f"{'':16}{'graphs/s cpu':>14}{'(wall)':>12}{'feed is':>12}")
    for title, turns in found.items():
        speed, wall = (median(turn[k] for turn in turns) for k in (0, 1))
        ratio = median(ours[0] / theirs[0] for ours, theirs in zip(found["feed"], turns, strict=True))
        print(f"{title:16}{speed:14.0f}{f'({wall:.0f})':>12}{ratio:11.2f}x")


if __name__ == "__main__":
    main()
