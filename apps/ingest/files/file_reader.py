"""Shared code of all readers of files: shards, archives, names, and broken records.

A reader defines how to cut one file into records, and how to parse one record. This module does the rest::

    class MyReader(FileReader):
        def frames(self, part, options):
            with part.text() as lines:
                for line in lines:
                    yield partial(parse, line)

``frames`` yields functions, so that records of other shards are cut out but never parsed. An exception in such a
function costs its record; an exception in ``frames`` itself costs the rest of the file. This applies to any exception,
since foreign parsers may raise any class on damaged input. Only failures of the storage end the program.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from gfm_pipeline.apps.ingest.assembly.given_splits import stated_split
from gfm_pipeline.apps.ingest.assembly.index_lists import UNLISTED, leaves_out, listed_split
from gfm_pipeline.apps.ingest.checks.label_shapes import Numbers, attribute_value, numbers_in
from gfm_pipeline.apps.ingest.files.archive_members import InputFile, is_archive, parts
from gfm_pipeline.apps.ingest.files.cursor import Cursor
from gfm_pipeline.apps.ingest.files.known_formats import recognised
from gfm_pipeline.apps.ingest.labels.interpretation import NotMeantError, RecordLabels, interpret, selected
from gfm_pipeline.apps.ingest.labels.known_keys import KeySet
from gfm_pipeline.apps.ingest.labels.plans import Plans, Remark
from gfm_pipeline.apps.ingest.records import (
    PassedOver,
    Record,
    RefusedError,
    assign_shards,
    disk_trouble,
    group_name,
    unreadable,
)
from gfm_pipeline.core.contracts.data import BadRecord, SourceSettings
from gfm_pipeline.core.contracts.options import FileOptions, ReaderOptions
from gfm_pipeline.core.contracts.properties.attributes import CHARGE, SPIN
from gfm_pipeline.core.contracts.sources import parse_options

__all__ = [
    "CHARGE_NAMES",
    "SPIN_NAMES",
    "FileReader",
    "Frame",
    "Parse",
    "PassOverError",
    "RefusedError",
    "nothing",
]

CHARGE_NAMES, SPIN_NAMES = CHARGE.names, SPIN.names
MOST_LOST = 1_000_000  # largest number of records listed singly, whatever number a damaged file states
T = TypeVar("T")


def nothing(_key: str) -> Any:
    """Find no metadata."""
    return None


def number_named(find: Callable[[str], Any], names: tuple[str, ...]) -> float | None:
    """Return the first finite number of these names, or None; arrays are values of atoms, and texts no numbers."""
    for name in names:
        value = find(name)
        if isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool):
            number = float(value)
            if isfinite(number):
                return number
    return None


@dataclass(frozen=True)
class Frame:
    """A structure from a file format, in the units of the source.

    Attributes
    ----------
    numbers, pos
        Atomic numbers [N] and positions [N, 3].
    cell, pbc
        Lattice vectors as rows [3, 3] and periodic directions [3].
    energy, forces
        The format's total energy and forces [N, 3]; None when missing.
    find
        Returns the label or metadata of a name, or None: for `energy_key`, `forces_key` and `group_key`, and for
        total charge and spin multiplicity by the names of `CHARGE_NAMES` and `SPIN_NAMES`.
    keys
        The keys that ``find`` knows; None: not stated, so no decisions depend on them.
    remarks
        Decisions of the reader itself.
    """

    numbers: NDArray[Any]
    pos: NDArray[Any]
    cell: NDArray[Any] = field(default_factory=lambda: np.zeros((3, 3)))
    pbc: NDArray[Any] = field(default_factory=lambda: np.zeros(3, dtype=bool))
    energy: Any = None
    forces: Any = None
    find: Callable[[str], Any] = nothing
    keys: KeySet | None = None
    remarks: tuple[Remark, ...] = ()


Parse = Callable[[], Frame]


class PassOverError(ValueError):
    """A valid record that does not belong to this source; its text is the reason."""


class FileReader(ABC):
    """Base of the readers of files; `gfm_pipeline.apps.ingest.records.Reader` is its interface.

    Attributes
    ----------
    default_group
        Group key of sources without one; None: the reduced formula.
    """

    default_group: str | None = None

    def converted(self, source: SourceSettings) -> tuple[str, ...]:  # noqa: ARG002
        """Return the unit conversions by the reader itself, in words: none."""
        return ()

    @abstractmethod
    def frames(self, part: InputFile, options: Any) -> Iterator[Parse]:
        """Yield one function per record of a file, in the file's order; each parses its record when called."""

    def length(self, part: InputFile, options: Any) -> int | None:  # noqa: ARG002
        """Return the number of records of a file if that is cheap."""
        return None

    def count(self, source: SourceSettings) -> int | None:
        """Return the number of records of the whole source; None if that requires reading a file."""
        if source.select is not None:
            return None  # the number of selected records is known only after reading
        options = parse_options(source.reader, source.options)
        total = 0
        for file in source.files:
            try:
                length = None if is_archive(file) else self.length(next(parts(file)), options)
            except Exception as error:  # any error of a parser is the file's fault, unless the disk fails
                if disk_trouble(error):
                    raise
                return None
            if length is None:
                return None
            total += length
        return total

    def read(
        self,
        source: SourceSettings,
        shard: int,
        n_shards: int,
        seed: int,  # noqa: ARG002
    ) -> Iterator[Record | BadRecord | PassedOver]:
        """Yield the records of one shard; ``seed`` is not used."""
        yield from self.read_from(source, shard, n_shards, Cursor())

    def read_from(
        self, source: SourceSettings, shard: int, n_shards: int, cursor: Cursor
    ) -> Iterator[Record | BadRecord | PassedOver]:
        """Yield the records of one shard from the start of ``cursor``, and move the cursor."""
        options = parse_options(source.reader, source.options)
        plans = Plans(source)
        files, records = assign_shards(source.files, shard, n_shards)
        for place, (file_index, file) in enumerate(files):
            if cursor.wants_file(place):
                yield from self._file(plans, options, file_index, file, records, cursor)

    def _file(
        self,
        plans: Plans,
        options: ReaderOptions,
        file_index: int,
        file: str,
        records: slice,
        cursor: Cursor,
    ) -> Iterator[Record | BadRecord | PassedOver]:
        source = plans.source
        members = options.members if isinstance(options, FileOptions) else "*"
        for member, part in enumerate(caught(cursor.cutting(parts(file, members)))):
            if isinstance(part, Exception):
                if cursor.wants(records):
                    yield _at_least(unreadable(source, file, cursor.record, part))
                return
            first = cursor.record
            for index, parse in enumerate(caught(cursor.cutting(self.frames(part, options)))):
                failed = isinstance(parse, Exception) and not isinstance(parse, RefusedError)
                rest = self._rest(part, options, index) if failed else 1
                for lost in range(rest or 1):
                    if cursor.wants(records):
                        found = self._record(parse, plans, part, file_index, member, index + lost, cursor)
                        found = _at_least(found) if rest is None else found
                        yield found if index else _named_for_what_it_is(found, part, source.reader)
                    if cursor.abandoned:
                        return
                    cursor.advance()
            if cursor.record == first:
                if cursor.wants(records):
                    about = recognised(part, source.reader)
                    message = "no records in this file" if about is None else f"unreadable: {about}"
                    yield BadRecord(source.name, part.name, 0, message)
                cursor.advance()

    def _rest(self, part: InputFile, options: Any, done: int) -> int | None:
        """Return how many records the file states after ``done``; None: not known."""
        try:
            length = self.length(part, options)
        except Exception as error:  # as above: a length that fails is not known
            if disk_trouble(error):
                raise
            return None
        return None if length is None or length <= done else min(length - done, MOST_LOST)

    def _record(
        self,
        parse: Parse | Exception,
        plans: Plans,
        part: InputFile,
        file_index: int,
        member: int,
        index: int,
        cursor: Cursor,
    ) -> Record | BadRecord | PassedOver:
        source = plans.source
        if isinstance(parse, Exception):
            return unreadable(source, part.name, index, parse)
        try:
            frame = cursor.parse(parse)
            numbers = _whole(np.asarray(frame.numbers))
            key = self.default_group if source.group_key is None else source.group_key
            split = stated_split(source, file_index, frame.find)
            if source.split_indices is not None and not file_index:
                split = listed_split(source.split_indices, member, index)
                if split is None and leaves_out(source.split_indices):
                    raise PassOverError(UNLISTED)
            labels = _labels(frame, len(numbers), plans)
            return Record(
                numbers=numbers,
                pos=np.asarray(frame.pos, dtype=np.float64),
                forces=labels.forces,
                energy=labels.energy,
                cell=np.asarray(frame.cell, dtype=np.float64),
                pbc=np.asarray(frame.pbc, dtype=bool),
                group=group_name(key, frame.find, numbers, part.name, index),
                file=part.name,
                file_index=file_index,
                member=member,
                index=index,
                charge=number_named(frame.find, labels.charge),
                spin=number_named(frame.find, labels.spin),
                keys=frame.keys,
                stated_keys=labels.stated_keys,
                remarks=(*frame.remarks, *labels.remarks),
                fault=labels.fault,
                units=labels.units,
                omits_forces=labels.omits_forces,
                split=split,
                labels=_further_labels(frame, plans, labels) if source.columns else {},
                weights=labels.weights,
            )
        except (PassOverError, NotMeantError) as error:
            return PassedOver(part.name, index, str(error))
        except Exception as error:  # noqa: BLE001 - whatever a parser raises costs the record, and names it
            return unreadable(source, part.name, index, error)


def _named_for_what_it_is(found: Record | BadRecord | PassedOver, part: InputFile, reader: str) -> Any:
    """Name the actual format in the error of the first record of a file of another format."""
    if not isinstance(found, BadRecord):
        return found
    about = recognised(part, reader)
    return found if about is None else replace(found, reason=f"unreadable: {about}")


def _at_least(found: Record | BadRecord | PassedOver) -> Record | BadRecord | PassedOver:
    """Note that an unreadable part stands for an unknown number of further records."""
    if not isinstance(found, BadRecord):
        return found
    return replace(found, reason=f"{found.reason.rstrip('.')}; the rest of this file is lost, at least one record")


def _labels(frame: Frame, natoms: int, plans: Plans) -> RecordLabels:
    """Return the labels of a frame that the source includes.

    Raises
    ------
    NotMeantError
        When the source does not select the frame, or its weights leave it out.
    """
    source = plans.source
    if source.select is not None and (reason := selected(source.select, frame.find)) is not None:
        raise NotMeantError(reason)
    if frame.keys is not None:
        return interpret(plans.of(frame.keys), frame.find, frame.energy, frame.forces, natoms, source)
    return RecordLabels(
        frame.energy if source.energy_key is None else frame.find(source.energy_key),
        frame.forces if source.forces_key is None else frame.find(source.forces_key),
        CHARGE_NAMES,
        SPIN_NAMES,
    )


def _further_labels(frame: Frame, plans: Plans, read: RecordLabels) -> dict[str, Numbers]:
    """Return labels of targets other than energy and forces, none of weight 0, and declared attributes, by name."""
    attributes = {attribute.name: attribute for attribute in plans.source.attributes}
    named = tuple((plans.source.labels or {}).items())
    found: dict[str, Numbers] = {}
    for target, key in named if frame.keys is None else plans.of(frame.keys).labels:
        value = frame.find(key) if read.weights.get(target) != 0 else None
        if value is None:
            continue
        attribute = attributes.get(target)
        values = numbers_in(target, value) if attribute is None else attribute_value(attribute, value)
        if values is not None:
            found[target] = values
    return found


def _whole(numbers: NDArray[Any]) -> NDArray[Any]:
    """Convert atomic numbers stored as floats to whole numbers; return other values unchanged."""
    if numbers.dtype.kind == "f" and np.isfinite(numbers).all() and (numbers == np.rint(numbers)).all():
        return numbers.astype(np.int64)
    return numbers


def caught(items: Iterator[T]) -> Iterator[T | Exception]:
    """Yield all of ``items`` and, last, any error that ended it."""
    try:
        yield from items
    except Exception as error:  # noqa: BLE001 - parsers of third parties raise anything; it costs the file
        yield error
