"""Random access to one split of a BP file: reads runs of structures directly into their final arrays."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from adios2 import bindings as adios
from numpy.typing import NDArray

from gfm_pipeline.apps.dataset.store.bp import BpFile, by_level
from gfm_pipeline.apps.dataset.store.columns import Columns, weight_key
from gfm_pipeline.core.contracts.data import Split
from gfm_pipeline.core.contracts.targets import SHAPES, Level
from gfm_pipeline.core.errors import DataError, IntegrityError

Indices = NDArray[np.int64]

# key -> rows of one structure (0: one per atom), and shape of a row
_KEYS: dict[str, tuple[int, tuple[int, ...]]] = {
    "atomic_numbers": (0, (1,)),
    "pos": (0, (3,)),
    "forces": (0, (3,)),
    "energy": (1, (1,)),
    "cell": (3, (3,)),
    "pbc": (3, ()),
    "group": (1, ()),
    "origin": (1, ()),
    "graph_attr": (2, ()),
}


def runs(graphs: Indices) -> tuple[Indices, Indices]:
    """Return start and end of the runs of consecutive numbers in the ascending ``graphs``."""
    breaks = np.flatnonzero(np.diff(graphs) != 1) + 1
    starts = np.concatenate([[0], breaks]) if len(graphs) else np.zeros(0, dtype=np.int64)
    ends = np.concatenate([breaks, [len(graphs)]]) if len(graphs) else starts
    return graphs[starts], graphs[ends - 1] + 1


class _File:
    """One split with ``size`` structures in one open file of `write_bp`."""

    def __init__(self, path: Path, label: Split, size: int) -> None:
        self._file, self._label, self._size = BpFile(path), label, size
        self._count = self._file.variable(f"{label}/pos/variable_count")
        self._offset = self._file.variable(f"{label}/pos/variable_offset")
        self._targets = self._file.targets()
        self._keys = _KEYS | {
            name: (0 if level is Level.ATOM else 1, (math.prod(SHAPES[rank]),))
            for name, (level, rank) in self._targets.items()
        }
        self._weighted = self._file.weighted()
        self._keys |= {weight_key(name): (1, ()) for name in self._weighted}
        self._variables = {key: self._file.variable(f"{label}/{key}") for key in self._keys}
        self._types = {key: self._file.dtype(f"{label}/{key}") for key in self._keys}
        for key, (per_graph, row) in self._keys.items():
            shape = tuple(self._variables[key].Shape())
            if shape[1:] != row or (per_graph and shape[0] != per_graph * size):
                raise IntegrityError(f"{path}: {label}/{key} has shape {shape}, which this layout does not use.")

    def close(self) -> None:
        self._file.close()

    def read(self, graphs: Indices) -> Columns:
        """Read ``graphs``, with one selection per run and key."""
        firsts, ends = runs(graphs)
        lengths = ends - firsts
        counts = self._fill(self._count, np.empty(len(graphs), dtype=np.int64), firsts, lengths)
        offsets = self._fill(self._offset, np.empty(len(graphs), dtype=np.int64), firsts, lengths)
        place = np.cumsum(lengths) - lengths
        atoms = np.add.reduceat(counts, place) if len(place) else lengths
        if (np.diff(offsets) != counts[:-1])[_inside(lengths)].any():
            raise IntegrityError(f"{self._file.path} is damaged: {self._label}/pos is not laid out end to end.")
        values: dict[str, NDArray[Any]] = {}
        for key, (per_graph, row) in self._keys.items():
            total = int(counts.sum()) if per_graph == 0 else per_graph * len(graphs)
            out = np.empty((total, *row), dtype=self._types[key])
            start, length = (offsets[place], atoms) if per_graph == 0 else (per_graph * firsts, per_graph * lengths)
            values[key] = self._fill(self._variables[key], out, start, length)
        try:
            return Columns.build(
                numbers=values["atomic_numbers"][:, 0],
                pos=values["pos"],
                forces=values["forces"],
                energy=values["energy"][:, 0],
                cell=values["cell"].reshape(-1, 3, 3),
                pbc=values["pbc"].reshape(-1, 3) != 0,
                natoms=counts,
                group=values["group"],
                origin=values["origin"],
                graph_attr=values["graph_attr"].reshape(-1, 2),
                weights={name: values[weight_key(name)] for name in self._weighted},
                **by_level(self._targets, values.__getitem__),
            )
        except DataError as error:
            raise IntegrityError(
                f"{self._file.path}: the keys of {self._label} do not fit together: {error}."
            ) from error

    def _fill(self, variable: Any, out: NDArray[Any], starts: Indices, lengths: Indices) -> NDArray[Any]:
        get: Callable[..., None] = self._file.engine.Get
        rest = list(out.shape[1:])
        zeros, done = [0] * len(rest), 0
        try:
            for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
                if length:
                    variable.SetSelection([[start, *zeros], [length, *rest]])
                    get(variable, out[done : done + length], adios.Mode.Sync)
                done += length
        except (RuntimeError, ValueError) as error:
            message = str(error).splitlines()[0]
            raise IntegrityError(f"{self._file.path}: {self._label} cannot be read: {message}.") from error
        return out


def _inside(lengths: Indices) -> NDArray[np.bool_]:
    """Return which neighbouring pairs of structures lie in the same run, from the lengths of runs."""
    run = np.repeat(np.arange(len(lengths)), lengths)
    same: NDArray[np.bool_] = run[1:] == run[:-1]
    return same


class RowReader:
    """Reads structures of one split of a dataset from files of `BpWriter`.

    A file is opened at its first use. Only one thread may use a `RowReader` at a time, since ADIOS2 stores the
    selection on the variable.

    Parameters
    ----------
    paths
        The BP files; the structures of the split are those of the files end to end.
    sizes
        Structures of the split in each file.
    label
        The split.
    block
        Structures per block on disk; only the last block may have fewer.
    """

    def __init__(self, paths: Sequence[Path], sizes: Sequence[int], label: Split, block: int) -> None:
        self._paths, self._label, self.block = tuple(paths), label, block
        self._starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self._open: dict[int, _File] = {}

    def __len__(self) -> int:
        return int(self._starts[-1])

    def close(self) -> None:
        """Close the files."""
        while self._open:
            self._open.popitem()[1].close()

    def __enter__(self) -> RowReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def read(self, graphs: Indices) -> Columns:
        """Read ``graphs`` [n], which ascend without repetition, with one selection per run of consecutive ones and key.

        Raises
        ------
        IntegrityError
            When a structure does not exist, or the file is damaged or has another layout.
        """
        graphs = np.asarray(graphs, dtype=np.int64)
        if len(graphs) and (graphs[0] < 0 or graphs[-1] >= len(self) or (np.diff(graphs) <= 0).any()):
            where = self._paths[0].parent
            raise IntegrityError(f"{where} has {len(self)} structures in {self._label}, not those asked for.")
        number = np.searchsorted(self._starts, graphs, side="right") - 1
        present = np.unique(number).tolist() if len(graphs) else [int(np.argmax(np.diff(self._starts) > 0))]
        parts = [self._file(k).read(graphs[number == k] - self._starts[k]) for k in present]
        return parts[0] if len(parts) == 1 else Columns.concatenate(parts)

    def _file(self, number: int) -> _File:
        if number not in self._open:
            size = int(self._starts[number + 1] - self._starts[number])
            self._open[number] = _File(self._paths[number], self._label, size)
        return self._open[number]


class BlockReader:
    """Random access to structures through whole blocks; the newest blocks stay in memory.

    Parameters
    ----------
    rows
        The reader.
    keep
        Blocks in memory.
    """

    def __init__(self, rows: RowReader, keep: int) -> None:
        self._rows, self._block, self._keep = rows, rows.block, keep
        self._kept: dict[int, Columns] = {}

    def read(self, graphs: Indices) -> Columns:
        """Return the ascending ``graphs`` as `RowReader.read` does."""
        number = graphs // self._block
        parts = []
        for b in np.unique(number).tolist():
            columns = self._kept.pop(b, None)
            if columns is None:
                while len(self._kept) >= self._keep:
                    del self._kept[next(iter(self._kept))]
                columns = self._rows.read(np.arange(b * self._block, min(len(self._rows), (b + 1) * self._block)))
            self._kept[b] = columns
            parts.append((columns, graphs[number == b] - b * self._block))
        return Columns.gather(parts) if parts else self._rows.read(graphs)
