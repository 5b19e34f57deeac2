"""One labelled structure on its way into a dataset, and the interface of everything that yields them."""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, reduce
from math import gcd
from typing import Any, Protocol

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from gfm_pipeline.apps.ingest.labels.known_keys import KeyKind, KeySet
from gfm_pipeline.apps.ingest.labels.plans import Remark
from gfm_pipeline.apps.ingest.labels.stated_units import Stated
from gfm_pipeline.core.contracts.data import BadRecord, SourceSettings
from gfm_pipeline.core.contracts.sources import block_size
from gfm_pipeline.core.errors import GFMError, NodeError, StorageError

# Errors of a failing disk, file system or machine, independent of the file. Every other errno is about the file: a
# folder in place of a file, an offset in a damaged archive, a name that is too long.
_DISK_TROUBLE = frozenset(
    getattr(errno, name)
    for name in (
        *("EIO", "ENOSPC", "EDQUOT", "EROFS", "ESTALE", "EMFILE", "ENFILE", "ENODEV", "ENOLCK", "ETIMEDOUT"),
        *("ENOTCONN", "ESHUTDOWN", "ENETDOWN", "ENETUNREACH", "EHOSTDOWN", "EHOSTUNREACH", "EREMOTEIO", "ENOLINK"),
    )
    if hasattr(errno, name)
)


class RefusedError(ValueError):
    """A record that is readable but unusable; its text is the reason."""


@dataclass(frozen=True)
class Record:
    """A structure with labels, in the units of its source.

    Attributes
    ----------
    numbers
        Atomic numbers [N].
    pos
        Positions [N, 3].
    forces
        Forces [N, 3]; None when the source has none.
    energy
        Total energy; None when the source has none.
    cell, pbc
        Lattice vectors as rows [3, 3]; periodic directions [3].
    group
        Trajectory or family; None when the metadata that names it is missing.
    file, file_index, index
        Its origin: path (``archive::member`` in an archive), position of the path in the source, position in the file
        or member.
    charge, spin
        Total charge (e) and spin multiplicity; None if the record does not state it.
    member
        Position of the member in its archive; 0 for other files.
    keys
        Its labels and metadata; None for readers that do not report them.
    said
        Key, kind and value of metadata that distinguish records.
    remarks
        Decisions about its labels.
    fault
        Why its labels cannot be used, or None.
    units
        The units that it states.
    omits_forces
        Whether it lacks usable forces although the source has forces.
    split
        The split that it or its file states, as written.
    labels
        Its labels of targets other than energy and forces, by the target's name: as in the source, and after conversion
        in the declared unit and shape.
    weights
        The weights of its labels in the loss that are not 1, by target.
    """

    numbers: NDArray[Any]
    pos: NDArray[np.float64]
    forces: NDArray[np.float64] | None
    energy: float | None
    cell: NDArray[np.float64]
    pbc: NDArray[np.bool_]
    group: str | None
    file: str
    file_index: int
    index: int
    charge: float | None = None
    spin: float | None = None
    member: int = 0
    keys: KeySet | None = None
    stated_keys: tuple[tuple[str, KeyKind, str], ...] = ()
    remarks: tuple[Remark, ...] = ()
    fault: str | None = None
    units: Stated | None = None
    omits_forces: bool = False
    split: str | None = None
    labels: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class PassedOver:
    """A valid record that does not belong to this source: it is counted and named, and is not a fault.

    The text of ``reason`` before the first colon is the same for all records with this reason.
    """

    file: str
    index: int
    reason: str


class Reader(Protocol):
    """A source of records.

    Readers stream: they hold one record at a time. They yield unreadable records as `BadRecord`, and records that do
    not belong to this source as `PassedOver`.
    """

    def converted(self, source: SourceSettings) -> tuple[str, ...]:
        """Return the unit conversions by the reader itself, in words."""

    def count(self, source: SourceSettings) -> int | None:
        """Return the number of records of the whole source, if that is cheap."""

    def read(
        self, source: SourceSettings, shard: int, n_shards: int, seed: int
    ) -> Iterator[Record | BadRecord | PassedOver]:
        """Yield the records of one shard; for any number of shards, all together are the source."""


def assign_shards(files: tuple[str, ...], shard: int, n_shards: int) -> tuple[list[tuple[int, str]], slice]:
    """Deal a source to shards: whole files when there are enough of them, else records of every file.

    Returns
    -------
    files, records
        (position, path) of the shard's files, and the slice of the records of each that it reads.
    """
    numbered = list(enumerate(files))
    if len(files) >= n_shards:
        return numbered[shard::n_shards], slice(0, None, 1)
    return numbered, slice(shard, None, n_shards)


def mine(index: int, records: slice) -> bool:
    """Return whether record ``index`` is in the slice ``start::step``."""
    return index % int(records.step) == int(records.start)


def reduced_formula(numbers: NDArray[Any]) -> str:
    """Return the composition divided by its greatest common divisor, symbols in alphabetic order."""
    return _formula(np.asarray(numbers, dtype=np.int64).tobytes())


@lru_cache(maxsize=1024)  # frames of a trajectory have one composition
def _formula(numbers: bytes) -> str:
    counts = Counter(np.frombuffer(numbers, dtype=np.int64).tolist())  # for few atoms a fifth of NumPy's time
    divisor = reduce(gcd, counts.values(), 0) or 1
    known = len(chemical_symbols)
    names = [chemical_symbols[z] if 0 <= z < known else f"Z{z}" for z in counts]
    return "".join(f"{name}{n // divisor}" for name, n in sorted(zip(names, counts.values(), strict=True)))


def group_name(
    key: str | None, lookup: Callable[[str], Any], numbers: NDArray[Any], file: str, index: int
) -> str | None:
    """Return the group of a record by the rules of `gfm_pipeline.core.contracts.sources`.

    ``lookup`` returns a metadata value or None; then the group is None too.
    """
    if key is None:
        return reduced_formula(numbers)
    if key == "@file":
        return file
    if key == "@record":
        return f"{file}#{index}"
    size = block_size(key)
    if size is not None:
        return f"{file}#{index // size}"
    value = lookup(key)
    return None if value is None else str(value)


def disk_trouble(error: BaseException) -> bool:
    """Return whether an error is a fault of the storage or the machine, not of the file."""
    if isinstance(error, (StorageError, NodeError)):
        return True
    return isinstance(error, OSError) and error.errno in _DISK_TROUBLE


def unreadable(source: SourceSettings, file: str, index: int, error: Exception) -> BadRecord:
    """Describe an unreadable record, or the unreadable rest of a file, from any exception.

    Raises
    ------
    Exception
        ``error`` itself, if the storage and not the file is at fault.
    """
    if disk_trouble(error):
        raise error
    if isinstance(error, RefusedError):
        return BadRecord(source.name, file, index, str(error))
    return BadRecord(source.name, file, index, f"unreadable: {value_words(error)}")


# What an exception of a parser says about its file, where its own message alone would not.
_ERROR_WORDS: dict[type[Exception], str] = {
    KeyError: "it has no {}",
    IndexError: "an entry is missing ({})",
    EOFError: "it ends too early",
    StopIteration: "it ends too early",
    MemoryError: "it needs more memory than a record may: {}",
    UnicodeDecodeError: "it is not text ({})",
}


def value_words(error: Exception) -> str:
    """Return what an error says about the content of a file, in one line of limited length."""
    if isinstance(error, GFMError):
        return str(error)
    if isinstance(error, IsADirectoryError):
        return "it is a folder, and a file is expected"
    text = str(error.strerror if isinstance(error, OSError) and error.strerror else error)
    first = next((line.strip() for line in text.splitlines() if line.strip()), "")[:200].rstrip(".")
    words = next((words for kind, words in _ERROR_WORDS.items() if isinstance(error, kind)), None)
    if words is not None:
        return words.format(first)
    return first or "it does not have the content that its format requires"
