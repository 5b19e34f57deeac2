"""How fast structures are converted to a dataset, with 1 and 2 workers, and how much memory that takes.

    python benchmarks/ingest.py [--structures 1000000] [--workers 1,2] [--folder DIR] [--shard-mb 512]

Each worker generates structures of 2 to 12 atoms on the fly and runs what ingest runs: conversion, checks, parts of a
shard. Then one process assembles the shards: duplicates, groups, references, shuffle, BP files, digests. A tenth of
the structures goes first, so that the peak memory of both sizes can be compared: it must not grow with their number.
Every program is a process of its own; its peak memory is the kernel's (ru_maxrss).

Structures are counted once a run, MB are those of the published dataset. Exit code 1 when the peak memory of the
larger run is more than half above that of the smaller one.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np

from gfm_pipeline.apps.ingest import assemble, read
from gfm_pipeline.apps.ingest.records import Record
from gfm_pipeline.apps.runtime.program import Task
from gfm_pipeline.core.contracts.data import AssembleSpec, BadRecord, ReadShardSpec, SourceSettings

ELEMENTS = np.array([1, 6, 7, 8])
FRAMES = 100  # of a trajectory, which is a group
GROWTH = 1.5


class Synthetic:
    """A reader that makes atoms on a jittered grid with a harmonic label, about as cheaply as numpy can."""

    def __init__(self, structures: int) -> None:
        self._structures = structures

    def converted(self, source: SourceSettings) -> tuple[str, ...]:  # noqa: ARG002
        """Return nothing: there is nothing to convert."""
        return ()

    def count(self, source: SourceSettings) -> int | None:  # noqa: ARG002
        """Return the number of structures."""
        return self._structures

    def read(self, source: SourceSettings, shard: int, n_shards: int, seed: int) -> Iterator[Record | BadRecord]:  # noqa: ARG002
        """Yield every ``n_shards``-th trajectory."""
        grid = 1.6 * np.stack(np.meshgrid(*[np.arange(3)] * 3), axis=-1).reshape(-1, 3)
        cell, pbc = np.zeros((3, 3)), np.zeros(3, dtype=bool)
        for trajectory in range(shard, -(-self._structures // FRAMES), n_shards):
            rng = np.random.default_rng([seed, trajectory])
            n = int(rng.integers(2, 13))
            numbers, sites = rng.choice(ELEMENTS, n), grid[:n]
            moved = rng.normal(scale=0.05, size=(FRAMES, n, 3))
            first = trajectory * FRAMES
            for k in range(min(FRAMES, self._structures - first)):
                yield Record(
                    numbers=numbers,
                    pos=sites + moved[k],
                    forces=-10.0 * moved[k],
                    energy=-5.0 * float(numbers.sum()) + 5.0 * float((moved[k] ** 2).sum()),
                    cell=cell,
                    pbc=pbc,
                    group=f"t{trajectory}",
                    file="synthetic",
                    file_index=0,
                    index=first + k,
                )


@dataclass(frozen=True)
class Cost:
    """What a process took."""

    seconds: float
    cpu: float
    peak_mb: float


def _measured(queue: multiprocessing.Queue[Cost], structures: int, spec: ReadShardSpec | AssembleSpec) -> None:
    started, cpu = time.perf_counter(), time.process_time()
    folder = Path(spec.output).parent
    reader = Synthetic(structures)
    with (
        mock.patch.object(read, "get_reader", return_value=reader),
        mock.patch.object(assemble, "get_reader", return_value=reader),
        mock.patch.object(read, "check_source"),
    ):
        if isinstance(spec, ReadShardSpec):
            read.read_shard_program(spec, Task(folder))
        else:
            assemble.assemble_program(spec, Task(folder))
    used = resource.getrusage(resource.RUSAGE_SELF)
    queue.put(Cost(time.perf_counter() - started, time.process_time() - cpu, used.ru_maxrss / 1024))


def _together(structures: int, specs: list[ReadShardSpec] | list[AssembleSpec]) -> Cost:
    """Run one process a spec, all at once; return the slowest wall time, all CPU time and the largest peak memory."""
    context = multiprocessing.get_context("spawn")
    queue: multiprocessing.Queue[Cost] = context.Queue()
    processes = [context.Process(target=_measured, args=(queue, structures, spec)) for spec in specs]
    for process in processes:
        process.start()
    costs = [queue.get() for _ in processes]
    for process in processes:
        process.join()
    return Cost(max(c.seconds for c in costs), sum(c.cpu for c in costs), max(c.peak_mb for c in costs))


def run(folder: Path, structures: int, workers: int, shard_mb: float) -> tuple[float, float]:
    """Convert and assemble; print a line each, and return the peak memory of both (MB)."""
    work = folder / f"{structures}-{workers}"
    work.mkdir()
    source = SourceSettings("synthetic", "ase", group_key="run", shards=workers)
    shards = [str(work / f"shard{k}") for k in range(workers)]
    reading = [ReadShardSpec(source, k, 1, shard) for k, shard in enumerate(shards)]
    converting = _together(structures, reading)
    size = sum(path.stat().st_size for shard in shards for path in Path(shard).rglob("*")) / 1e6
    _line("convert", structures, workers, converting, size)
    joining = AssembleSpec(source, tuple(shards), 0.1, 0.1, 0.0, 1, str(work / "dataset"), shard_mb)
    joined = _together(structures, [joining])
    size = sum(path.stat().st_size for path in (work / "dataset").rglob("*") if path.is_file()) / 1e6
    _line("assemble", structures, 1, joined, size)
    shutil.rmtree(work)
    return converting.peak_mb, joined.peak_mb


def _line(what: str, structures: int, workers: int, cost: Cost, size: float) -> None:
    print(
        f"{what:<9} {structures:>10,} {workers:>8} {cost.seconds:>9.1f} {structures / cost.seconds:>13,.0f} "
        f"{structures / cost.cpu:>13,.0f} {size / cost.seconds:>8.1f} {cost.peak_mb:>13.0f}",
        flush=True,
    )


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--structures", type=int, default=1_000_000)
    parser.add_argument("--workers", default="1,2")
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--shard-mb", type=float, default=512.0)
    arguments = parser.parse_args()
    print("step      structures  workers   seconds  structures/s per CPU-second     MB/s  peak MB/proc")
    grown = False
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for workers in map(int, arguments.workers.split(",")):
            small = run(Path(folder), arguments.structures // 10, workers, arguments.shard_mb)
            large = run(Path(folder), arguments.structures, workers, arguments.shard_mb)
            for what, a, b in zip(("convert", "assemble"), small, large, strict=True):
                print(f"  {what}: peak memory times {b / a:.2f} for 10 times as many structures")
                grown = grown or b > GROWTH * a
    return 1 if grown else 0


if __name__ == "__main__":
    sys.exit(main())
