"""The second half of assembly: one or several processes write the shuffled records to BP files and indexes.

One rank writes each file, in order, so the bytes do not depend on the number of ranks. If ADIOS2 has MPI, ranks write
each file together instead. All ranks write indexes, each for a run of chunks, and optionally edges, which are then most
of the work. Rank 0 reads all records and computes the results that depend on their order: the digest of the content and
the sums of energies.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from gfm_pipeline.apps.dataset.neighbors.degrees import Degrees
from gfm_pipeline.apps.dataset.store.edge_files import edge_layout, join_edges
from gfm_pipeline.apps.dataset.store.index import IndexWriter, join_indexes
from gfm_pipeline.apps.dataset.store.write import BpWriter, ContentDigest
from gfm_pipeline.apps.ingest.assembly.shuffle import Buckets
from gfm_pipeline.apps.ingest.mpi import MpiCommunicator
from gfm_pipeline.apps.ingest.summary.statistics import Totals
from gfm_pipeline.apps.runtime.program import Task
from gfm_pipeline.core.contracts.data import Split
from gfm_pipeline.core.contracts.layout import CHUNK, BpShard, DatasetLayout, LabelExtent
from gfm_pipeline.core.contracts.targets import Target


@dataclass(frozen=True)
class DatasetWrite:
    """The description of the output, equal on all ranks.

    Attributes
    ----------
    folder, scratch
        Folder of the dataset, and a folder in it that is removed before publication.
    files
        The BP files and their contents.
    energies
        Atomic number to reference energy (eV).
    buckets
        The records of every split.
    graphs
        Their numbers.
    edges_within
        Edges within it (Angstrom) are stored; None: no edges.
    targets
        Those beside energy and forces.
    weighted
        Names of targets whose labels have weights.
    """

    folder: Path
    scratch: Path
    name: str
    files: list[tuple[str, dict[Split, LabelExtent]]]
    energies: dict[int, float]
    buckets: dict[Split, Buckets]
    graphs: dict[Split, int]
    edges_within: float | None = None
    targets: tuple[Target, ...] = ()
    weighted: tuple[str, ...] = ()

    def counts(self, rank: int, size: int) -> dict[Split, range]:
        """Return the chunks of every split whose index and edges a rank writes."""
        numbers = {split: -(-n // CHUNK) for split, n in self.graphs.items()}
        return {split: range(n * rank // size, n * (rank + 1) // size) for split, n in numbers.items()}

    def sizes(self, rank: int, size: int) -> dict[Split, int]:
        """Return the number of structures in those chunks."""
        mine = self.counts(rank, size)
        return {s: min(mine[s].stop * CHUNK, n) - min(mine[s].start * CHUNK, n) for s, n in self.graphs.items()}

    def index_folder(self, rank: int, size: int) -> Path:
        """Return the folder for the indexes of a rank's chunks: its own folder, or the only one."""
        return self.folder if size == 1 else self.scratch / f"rank-{rank:05d}"


@dataclass(frozen=True)
class _FilePosition:
    """A chunk: its number in the split, and its first structure and atom in the file."""

    split: Split
    number: int
    first: int
    atom: int


def _writer_of(file: int, size: int) -> int:
    """Return the rank that writes a file; rank 0, which reads all records, comes last."""
    return size - 1 - file % size


def _places(files: list[tuple[str, dict[Split, LabelExtent]]]) -> Iterator[tuple[int, list[_FilePosition]]]:
    begun: dict[Split, int] = {}
    for number, (_, extents) in enumerate(files):
        places: list[_FilePosition] = []
        for split, extent in extents.items():
            before = begun.get(split, 0)
            places += [_FilePosition(split, before + k, k * CHUNK, atom) for k, atom in enumerate(extent.atom_start)]
            begun[split] = before + len(extent.atom_start)
        yield number, places


@dataclass(frozen=True)
class WrittenPart:
    """The results of a rank: numbers of neighbours in its training structures, and on rank 0 the content's digest."""

    degrees: Degrees
    content: str


def write_part(
    work: DatasetWrite, totals: Totals | None, task: Task, ranks: MpiCommunicator, quarantined: int = 0
) -> WrittenPart:
    """Write this rank's part; rank 0 adds all records to ``totals``.

    Raises
    ------
    DataError
        When a cell has no volume, or ADIOS2 refuses the data.
    StopRequested, OtherFailed
        On request to stop, or when another rank failed.
    """
    rank, size = ranks.rank, ranks.size

    def check() -> None:
        task.check()
        ranks.check_peers()

    def writes(file: int, at: _FilePosition) -> bool:
        return at.number in counted[at.split] if ranks.collective else _writer_of(file, size) == rank

    counted, content = work.counts(rank, size), ContentDigest()
    wanted: dict[Split, set[int]] = {split: set() for split in work.buckets}
    for file, places in _places(work.files):
        for at in places:
            if totals is not None or at.number in counted[at.split] or writes(file, at):
                wanted[at.split].add(at.number)
    streams = {s: b.chunks(wanted[s], remove=size == 1) for s, b in work.buckets.items()}
    done, total = 0, sum(work.graphs.values())
    folder = work.index_folder(rank, size)
    folder.mkdir(exist_ok=True)
    targets = tuple(target.name for target in work.targets)
    with IndexWriter(folder, work.sizes(rank, size), work.edges_within, targets) as index:
        for file, places in _places(work.files):
            with _open(work, file, ranks) as writer:
                for at in places:
                    if at.number not in wanted[at.split]:
                        continue
                    check()
                    records = next(streams[at.split])
                    columns = records.columns
                    if writer is not None and writes(file, at):
                        writer.put(at.split, columns, (at.first, at.atom))
                    if at.number in counted[at.split]:
                        index.add(at.split, columns, check, records.degrees)
                    if totals is not None:
                        content.update(str(at.split), columns)
                        totals.add(at.split, columns)
                    done += len(columns)
                    task.report_progress(done=done, total=total, step="write", quarantined=quarantined)
    return WrittenPart(index.degrees.get(Split.TRAIN, Degrees.none()), content.hexdigest())


def _open(work: DatasetWrite, file: int, ranks: MpiCommunicator) -> AbstractContextManager[BpWriter | None]:
    if not ranks.collective and _writer_of(file, ranks.size) != ranks.rank:
        return nullcontext()
    name, extents = work.files[file]
    comm = ranks.comm if ranks.collective else None
    path, targets, weighted = work.folder / name, work.targets, work.weighted
    return BpWriter(path, work.name, extents, work.energies, comm=comm, targets=targets, weighted=weighted)


def finish(work: DatasetWrite, parts: list[WrittenPart], totals: Totals) -> DatasetLayout:
    """Combine the results of all ranks on rank 0."""
    if len(parts) > 1:
        folders = [work.index_folder(rank, len(parts)) for rank in range(len(parts))]
        for split in work.graphs:
            join_indexes(work.folder, split, folders, tuple(target.name for target in work.targets))
        if work.edges_within is not None:
            join_edges(work.folder, work.graphs, folders)
    degrees = sum((part.degrees for part in parts), Degrees.none())
    totals.neighbours = degrees.statistics()
    shards = tuple(BpShard(file, {str(split): e for split, e in extents.items()}) for file, extents in work.files)
    within = work.edges_within
    edges = None if within is None else edge_layout(work.folder, work.graphs, CHUNK, within)
    return DatasetLayout(CHUNK, parts[0].content, shards, edges)
