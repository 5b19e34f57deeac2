"""Reads records of large JSON files one at a time: memory holds one record, at any nesting."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from typing import IO, Any, Protocol

import ijson
import orjson

ERRORS = (ijson.JSONError,)
JsonEvent = tuple[str, Any]
_OPEN = ("start_map", "start_array")
_CLOSE = ("end_map", "end_array")
_LOOKAHEAD = 1_000_000  # events; if no record is found among them, there is none
# Python and pymatgen write these, and only Python's JSON parser reads them.
_NO_NUMBER = re.compile(rb"([:\[,]\s*)(?:NaN|-?Infinity)(?=\s*[,\]}])")
_KEEP = 256  # bytes; indentation is shorter


class Readable(Protocol):
    """A source of bytes."""

    def read(self, size: int = -1, /) -> bytes:
        """Return at most ``size`` bytes; none at the end."""
        ...


class _Finite:
    """A stream that replaces non-JSON numbers by null, and counts keys of a given name."""

    def __init__(self, stream: Readable, key: str) -> None:
        self._stream = stream
        self._kept = b""
        self._key = re.compile(rb'"' + re.escape(key.encode()) + rb'"\s*:')
        self._tail = b""
        self.keys = 0

    def _count(self, new: bytes) -> None:
        """Count keys; a possible start of a key is examined again with the following bytes."""
        text = self._tail + new
        ends = [match.end() for match in self._key.finditer(text)]
        self.keys += len(ends)
        self._tail = text[max(ends[-1] if ends else 0, len(text) - _KEEP) :]

    def drain(self) -> int:
        """Read to the end and return the total number of keys."""
        while new := self._stream.read(1 << 20):
            self._count(new)
        return self.keys

    def read(self, size: int = -1) -> bytes:
        """Return bytes; holds back a few at the end of a piece, since a word may be cut there."""
        if size == 0:
            return b""
        while True:
            new = self._stream.read(size)
            self._count(new)
            text = _NO_NUMBER.sub(rb"\1null", self._kept + new)
            if not new:
                self._kept = b""
                return text
            text, self._kept = text[:-_KEEP], text[-_KEEP:]
            if text:
                return text


def records(stream: Readable, key: str) -> Iterator[Callable[[], Any]]:
    """Yield a function per record, in file order, which parses the record; call it immediately or never.

    Records are the objects at the depth at which ``key`` is first found: elements of a list, values of nested mappings.
    Other values at that depth are yielded unchanged, for the caller to refuse.

    Where the text is not JSON, each lost record is a function that raises the error; keys count the lost records.

    Raises
    ------
    ijson.JSONError
        When the text before the first record is not JSON.
    ValueError
        When ``key`` does not occur.
    """
    text = _Finite(stream, key)
    events = _Events(iter(ijson.basic_parse(text, use_float=True, multiple_values=True)))
    passed: list[JsonEvent] = []
    depth = _find(events, key, passed)
    yield from _at_depth(text, events, passed, depth)


def items(stream: Readable) -> Iterator[Callable[[], Any]]:
    """Yield a function per element of a list, as `records` does; the lost part after an error counts as one."""
    text = _Finite(stream, "")
    yield from _at_depth(text, _Events(iter(ijson.basic_parse(text, use_float=True))), [], 1)


def _at_depth(text: _Finite, events: _Events, passed: list[JsonEvent], depth: int) -> Iterator[Callable[[], Any]]:
    given, inside = 0, False
    try:
        for record in _cut(chain(passed, events), depth):
            given, inside = given + 1, True
            yield record
            record.skip()
            inside = events.error is not None  # raised when the record was parsed
            if inside:
                break
    except ERRORS:
        pass  # kept by `events`
    if events.error is not None:
        # A record with the error was yielded already, and parsing it raises.
        yield from [partial(_lost, events.error)] * max(text.drain() - given, 0 if inside else 1)


class _Events:
    """Events of a parser, and the error that ended them."""

    def __init__(self, events: Iterator[JsonEvent]) -> None:
        self._events = events
        self.error: Exception | None = None

    def __iter__(self) -> _Events:
        return self

    def __next__(self) -> JsonEvent:
        try:
            return next(self._events)
        except ERRORS as error:
            self.error = error
            raise


def _cut(events: Iterator[JsonEvent], depth: int) -> Iterator[_JsonRecord]:
    level = 0
    for event, value in events:
        if event in _CLOSE:
            level -= 1
        elif event == "map_key":
            continue
        elif level == depth:
            yield _JsonRecord(event, value, events)
        elif event in _OPEN:
            level += 1


def _lost(error: Exception) -> Any:
    raise error


def are_lines(begin: bytes) -> bool:
    """Return whether a text with this start is JSON lines: one object per line, not a list of objects."""
    first, _, rest = begin.lstrip().partition(b"\n")
    return first.startswith(b"{") and first.rstrip().endswith(b"}") and rest.lstrip().startswith(b"{")


def loads(line: bytes) -> Any:
    """Parse a line; non-JSON numbers are null."""
    return orjson.loads(_NO_NUMBER.sub(rb"\1null", line))


class Joined:
    """A stream that begins with bytes already read from another, followed by its rest."""

    def __init__(self, begin: bytes, rest: IO[bytes]) -> None:
        self._begin, self._rest = begin, rest

    def read(self, size: int = -1) -> bytes:
        """Return bytes, at most ``size`` of them."""
        if size and self._begin:
            begin, self._begin = self._begin, b""
            if size < 0:
                return begin + self._rest.read()
            self._begin = begin[size:]
            return begin[:size]
        return self._rest.read(size)

    def lines(self) -> Iterator[bytes]:
        """Yield the lines."""
        *whole, last = self._begin.split(b"\n")
        yield from whole
        yield last + self._rest.readline()
        yield from self._rest


def _find(events: Iterator[JsonEvent], key: str, passed: list[JsonEvent]) -> int:
    """Return the depth of records in containers; append the events read for this to ``passed``."""
    level = 0
    for event, value in events:
        passed.append((event, value))
        if event in _OPEN:
            level += 1
        elif event in _CLOSE:
            level -= 1
        elif event == "map_key" and value == key:
            return level - 1
        if len(passed) > _LOOKAHEAD:
            break
    raise ValueError(f"there is no {key!r} in this file")


class _JsonRecord:
    """One record, not yet parsed."""

    def __init__(self, event: str, value: Any, events: Iterator[JsonEvent]) -> None:
        self._event, self._value, self._events = event, value, events
        self._level = 1 if event in _OPEN else 0

    def __call__(self) -> Any:
        """Parse the record. Records are parsed in file order only."""
        return _build(self._event, self._value, self._counted())

    def _counted(self) -> Iterator[JsonEvent]:
        for event, value in self._events:
            self._level += (event in _OPEN) - (event in _CLOSE)
            yield event, value

    def skip(self) -> None:
        """Read to the end of the record."""
        if self._level:
            next((None for _ in self._counted() if not self._level), None)


def _build(event: str, value: Any, events: Iterator[JsonEvent]) -> Any:
    if event == "start_map":
        found: dict[str, Any] = {}
        for kind, key in events:
            if kind == "end_map":
                return found
            found[key] = _build(*next(events), events)
    elif event == "start_array":
        items: list[Any] = []
        for kind, item in events:
            if kind == "end_array":
                return items
            items.append(_build(kind, item, events) if kind in _OPEN else item)
    else:
        return value
    raise ValueError("the file ends inside this record")
