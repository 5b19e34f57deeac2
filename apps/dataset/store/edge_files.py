"""Packed edges of a dataset: two files per split, written in one pass, and mapped when read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gfm_pipeline.apps.dataset.neighbors.edges import COUNT, EDGE, UNPACKED, Packed, pack
from gfm_pipeline.apps.dataset.store.columns import flat_ranges
from gfm_pipeline.apps.dataset.store.rows import runs
from gfm_pipeline.core.contracts.data import Split
from gfm_pipeline.core.contracts.layout import EdgeExtent, EdgeLayout
from gfm_pipeline.core.errors import IntegrityError
from gfm_pipeline.core.publish import storage_errors

_AT_ONCE = 1 << 20  # rows copied at a time

Indices = NDArray[np.int64]


def edge_files(label: Split) -> tuple[str, str]:
    """Return the names of a split's edges and of their numbers in the folder of its dataset."""
    return f"{label}.edges.npy", f"{label}.edge_counts.npy"


class _Growing:
    """An array [n] in a npy file; its length enters the header at the end."""

    def __init__(self, path: Path, dtype: np.dtype[Any]) -> None:
        self._path, self._dtype, self._n = path, dtype, 0
        with storage_errors(path):
            self._stream = open(path, "wb")  # noqa: SIM115 - closed by `close`
        self._header()

    def _header(self) -> int:
        fields = {"descr": np.lib.format.dtype_to_descr(self._dtype), "fortran_order": False, "shape": (self._n,)}
        # NumPy's header has room for the digits of any length, so it can be rewritten in place
        with storage_errors(self._path):
            np.lib.format.write_array_header_1_0(self._stream, fields)
        return self._stream.tell()

    def append(self, values: NDArray[Any]) -> None:
        with storage_errors(self._path):
            self._stream.write(np.ascontiguousarray(values, dtype=self._dtype).data)
        self._n += len(values)

    def end(self) -> None:
        """Write the header again, with the length."""
        with storage_errors(self._path):
            size = self._stream.tell()
            self._stream.seek(0)
            if self._header() != size - self._n * self._dtype.itemsize:
                raise ValueError(f"The header of {self._path} did not keep its size.")

    def close(self) -> None:
        with storage_errors(self._path):
            self._stream.close()


class EdgeWriter:
    """Writes the edges of splits into the folder of a dataset, one structure at a time.

    Parameters
    ----------
    folder
        Of the dataset.
    labels
        The splits.

    Raises
    ------
    StorageError
        When the disk refuses.
    """

    def __init__(self, folder: Path, labels: Iterable[Split]) -> None:
        self._folder, self._labels, self._open = folder, tuple(labels), ExitStack()
        self._files: dict[Split, tuple[_Growing, _Growing]] = {}

    def __enter__(self) -> EdgeWriter:
        with ExitStack() as stack:  # so that a failure to open a file closes the previous files
            for label in self._labels:
                edges, counts = edge_files(label)
                pair = _Growing(self._folder / edges, EDGE), _Growing(self._folder / counts, COUNT)
                for file in pair:
                    stack.callback(file.close)
                self._files[label] = pair
            self._open = stack.pop_all()
        return self

    def add(self, label: Split, src: Indices, dst: Indices, image: Indices) -> None:
        """Add the edges of the next structure of ``label``, sorted by length: ends [E] and images [E, 3]."""
        packed = pack(src, dst, image)
        n = UNPACKED if packed is None else len(packed)
        self.put(label, np.array([n], dtype=COUNT), np.zeros(0, dtype=EDGE) if packed is None else packed)

    def put(self, label: Split, counts: NDArray[np.uint32], edges: NDArray[np.int64]) -> None:
        """Add the next packed edges of ``label`` [E], and the next numbers of edges [n]."""
        to_edges, to_counts = self._files[label]
        to_edges.append(edges)
        to_counts.append(counts)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._open:
            if kind is None:
                for pair in self._files.values():
                    for file in pair:
                        file.end()


def join_edges(folder: Path, labels: Iterable[Split], parts: Sequence[Path]) -> None:
    """Join the edges of splits in ``parts`` into ``folder``, end to end, with one piece in memory at a time.

    Raises
    ------
    StorageError
        When the disk refuses.
    """
    with EdgeWriter(folder, labels) as writer:
        for label in labels:
            names = edge_files(label)
            for part in parts:
                edges, counts = (_mapped(part / name) for name in names)
                for first in range(0, max(len(edges), len(counts)), _AT_ONCE):
                    piece = slice(first, first + _AT_ONCE)
                    writer.put(label, counts[piece], edges[piece])


def edge_layout(folder: Path, labels: Iterable[Split], chunk: int, cutoff: float) -> EdgeLayout:
    """Return the first edge of each chunk of ``chunk`` structures, from the numbers on disk."""
    return EdgeLayout(cutoff, {str(label): _extent(folder / edge_files(label)[1], chunk) for label in labels})


def _extent(path: Path, chunk: int) -> EdgeExtent:
    counts, ends, unpacked = _mapped(path), [0], 0
    for first in range(0, len(counts), chunk):
        piece = counts[first : first + chunk]
        missing = piece == UNPACKED
        unpacked += int(missing.sum())
        ends.append(ends[-1] + int(piece[~missing].sum(dtype=np.int64)))
    return EdgeExtent(tuple(ends[:-1]), ends[-1], unpacked)


class StoredEdges:
    """The memory-mapped edges of one split on disk.

    Parameters
    ----------
    folder
        Of the dataset.
    label
        The split.
    graphs
        Its structures.
    chunk, layout
        Structures per chunk, and the dataset's layout of its edges.

    Raises
    ------
    IntegrityError
        When a file is missing or truncated, or has other numbers of structures and edges.
    """

    def __init__(self, folder: Path, label: Split, graphs: int, chunk: int, layout: EdgeLayout) -> None:
        self._path, path = (folder / name for name in edge_files(label))
        recorded = layout.splits.get(str(label))
        if recorded is None:
            raise IntegrityError(f"{folder} says nothing of the edges in {label}.", "Ingest the dataset again.")
        self.cutoff, self._chunk = layout.cutoff, chunk
        self._starts = np.array([*recorded.first, recorded.n_edges], dtype=np.int64)
        self._edges, self._counts = _mapped(self._path), _mapped(path)
        for file, array, n in ((self._path, self._edges, recorded.n_edges), (path, self._counts, graphs)):
            if array.shape != (n,) or array.dtype != (EDGE if file is self._path else COUNT):
                raise IntegrityError(
                    f"{file} does not hold the {n} numbers its dataset says.", "Ingest the dataset again."
                )
        if len(recorded.first) != -(-graphs // chunk):
            raise IntegrityError(f"{folder} says where the edges of {len(recorded.first)} chunks begin in {label}.")

    def read(self, graphs: Indices) -> Packed:
        """Return the edges of ``graphs``, which ascend without repetition.

        Raises
        ------
        IntegrityError
            When the sum of the numbers of edges differs from the layout.
        """
        chunk, inside = np.divmod(np.asarray(graphs, dtype=np.int64), self._chunk)
        chunks, which = np.unique(chunk, return_inverse=True)
        firsts = chunks * self._chunk
        sizes = np.minimum(firsts + self._chunk, len(self._counts)) - firsts
        counts = self._counts[flat_ranges(firsts, sizes)]
        present = np.where(counts == UNPACKED, 0, counts).astype(np.int64)
        place = np.cumsum(sizes) - sizes  # in counts, of the first structure of each chunk
        begin, end = self._starts[chunks], self._starts[chunks + 1]
        if len(chunks) and (np.add.reduceat(present, place) != end - begin).any():
            raise IntegrityError(
                f"{self._path} and the numbers of edges beside it do not fit together.", "Ingest the dataset again."
            )
        before = np.cumsum(present) - present
        start = before + np.repeat(begin - before[place], sizes)
        mine = place[which] + inside
        return Packed(counts[mine], self._gather(graphs, start[mine], present[mine]), self.cutoff, self._path)

    def _gather(self, graphs: Indices, start: Indices, counts: Indices) -> NDArray[np.int64]:
        """Return the edges of ``graphs``, with one slice per run of consecutive graphs."""
        firsts, ends = runs(graphs)
        low, high = np.searchsorted(graphs, firsts), np.searchsorted(graphs, ends - 1)
        begin, end = start[low].tolist(), (start[high] + counts[high]).tolist()
        parts = [self._edges[a:b] for a, b in zip(begin, end, strict=True)]
        return parts[0] if len(parts) == 1 else np.concatenate([np.zeros(0, dtype=EDGE), *parts])


def _mapped(path: Path) -> NDArray[Any]:
    try:
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except (OSError, ValueError) as error:
        raise IntegrityError(f"{path} cannot be read: {error}.", "Ingest the dataset again.") from error
