"""Transfers records between processes: a batch is a few flat arrays and columns.

Pickling each record costs ten times as much as packing 64 together. Key sets, which are compared by identity, are sent
once, so that records also share them after the transfer.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from math import prod
from operator import attrgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gfm_pipeline.apps.ingest.labels.known_keys import KeySet
from gfm_pipeline.apps.ingest.records import PassedOver, Record
from gfm_pipeline.core.contracts.data import BadRecord

Item = Record | BadRecord | PassedOver

MOST_KEY_SETS = 512  # remembered; then all are sent again
_ARRAYS = ("numbers", "pos", "forces", "cell", "pbc")
_COLUMNS = tuple(one.name for one in fields(Record) if one.name not in (*_ARRAYS, "keys", "labels"))
_columns_of = attrgetter(*_COLUMNS)
_arrays_of = attrgetter(*_ARRAYS)


@dataclass(frozen=True)
class RecordBatch:
    """Items in the form of transfer.

    Attributes
    ----------
    others
        Unpacked items at their positions; None stands for the next packed record.
    sizes
        Number of atoms of each packed record, and whether it has forces.
    numbers, vectors, pbc
        The arrays of the packed records, joined: [sum N], positions, forces and cells [sum M, 3], directions [3 R].
    columns
        The other attributes, one tuple for each.
    first_keys, keys
        Position of the new key sets among those of the receiver, and the new key sets.
    keys_of
        Position of the key set of each packed record; -1 for none.
    labels, label_values
        Names and shapes of the further labels of each packed record, and their numbers end to end.
    """

    others: list[BadRecord | PassedOver | Record | None]
    sizes: list[tuple[int, bool]]
    numbers: NDArray[Any]
    vectors: NDArray[Any]
    pbc: NDArray[Any]
    columns: list[tuple[Any, ...]]
    first_keys: int
    keys: list[KeySet]
    keys_of: list[int]
    labels: list[tuple[tuple[str, tuple[int, ...]], ...]]
    label_values: NDArray[np.float64]


@dataclass
class Packer:
    """The sending end."""

    _known: dict[KeySet, int] = field(default_factory=dict)

    def pack(self, items: Sequence[Item]) -> RecordBatch:
        """Return items as a batch; the receiver must unpack batches in order."""
        if len(self._known) >= MOST_KEY_SETS:
            self._known.clear()
        first, new = len(self._known), list[KeySet]()
        others: list[Item | None] = []
        sizes: list[tuple[int, bool]] = []
        numbers: list[NDArray[Any]] = []
        vectors: list[NDArray[Any]] = []
        pbc: list[NDArray[Any]] = []
        columns, keys_of = list[tuple[Any, ...]](), list[int]()
        labels: list[tuple[tuple[str, tuple[int, ...]], ...]] = []
        values: list[NDArray[Any]] = []
        for item in items:
            if not isinstance(item, Record) or not _packs(item):
                others.append(item)
                continue
            others.append(None)
            sizes.append((len(item.numbers), item.forces is not None))
            numbers.append(item.numbers)
            pbc.append(item.pbc)
            vectors += (item.pos, item.cell) if item.forces is None else (item.pos, item.forces, item.cell)
            columns.append(_columns_of(item))
            labels.append(tuple((name, array.shape) for name, array in item.labels.items()) if item.labels else ())
            values += [array.ravel() for array in item.labels.values()]
            if item.keys is not None and item.keys not in self._known:
                self._known[item.keys] = len(self._known)
                new.append(item.keys)
            keys_of.append(-1 if item.keys is None else self._known[item.keys])
        return RecordBatch(
            others=others,
            sizes=sizes,
            numbers=_joined(numbers),
            vectors=_joined(vectors),
            pbc=_joined(pbc),
            columns=list(zip(*columns, strict=True)),
            first_keys=first,
            keys=new,
            keys_of=keys_of,
            labels=labels if values else [],
            label_values=_joined(values),
        )


@dataclass
class Unpacker:
    """The receiving end; its arrays are views of those of the batch."""

    _known: list[KeySet] = field(default_factory=list)

    def unpack(self, batch: RecordBatch) -> Iterator[Item]:
        """Yield the items of a batch."""
        self._known[batch.first_keys :] = batch.keys
        columns = zip(*batch.columns, strict=True)
        atoms = rows = directions = numbered = 0
        sizes = iter(zip(batch.sizes, batch.keys_of, batch.labels or [()] * len(batch.sizes), strict=True))
        for other in batch.others:
            if other is not None:
                yield other
                continue
            (n, with_forces), keys, named = next(sizes)
            labels: dict[str, NDArray[np.float64]] = {}
            for name, shape in named:
                end = numbered + prod(shape)
                labels[name] = batch.label_values[numbered:end].reshape(shape)
                numbered = end
            numbers, vectors, pbc = batch.numbers, batch.vectors, batch.pbc
            cell = rows + (2 * n if with_forces else n)
            record = Record.__new__(Record)  # as pickle does; calling it costs three times as much
            record.__dict__.update(
                zip(_COLUMNS, next(columns), strict=True),
                numbers=numbers[atoms : atoms + n],
                pos=vectors[rows : rows + n],
                forces=vectors[rows + n : cell] if with_forces else None,
                cell=vectors[cell : cell + 3],
                pbc=pbc[directions : directions + 3],
                keys=None if keys < 0 else self._known[keys],
                labels=labels,
            )
            yield record
            atoms, rows, directions = atoms + n, cell + 3, directions + 3


def to_bytes(message: Any) -> bytes:
    """Return the bytes for `multiprocessing.connection.Connection.recv`, by the newest protocol."""
    return pickle.dumps(message, pickle.HIGHEST_PROTOCOL)


def _joined(arrays: list[NDArray[Any]]) -> NDArray[Any]:
    return np.concatenate(arrays) if arrays else np.zeros(0)


def _packs(record: Record) -> bool:
    """Return whether a record's arrays have the types and shapes for packing, as in valid records."""
    numbers, pos, forces, cell, pbc = _arrays_of(record)
    n = len(numbers)
    return (
        numbers.dtype == np.int64
        and numbers.ndim == 1
        and _vectors(pos, n)
        and (forces is None or _vectors(forces, n))
        and _vectors(cell, 3)
        and pbc.dtype == np.bool_
        and pbc.shape == (3,)
    )


def _vectors(array: Any, n: int) -> bool:
    return isinstance(array, np.ndarray) and array.dtype == np.float64 and array.shape == (n, 3)
