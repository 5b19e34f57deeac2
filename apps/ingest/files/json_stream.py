"""Records of large JSON files one at a time: memory is that of one record, however the records are nested."""

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
_LOOKAHEAD = 1_000_000  # events; a record that is not found among so many is not there
# Python and pymatgen write these, and no JSON parser but Python's reads them.
_NO_NUMBER = re.compile(rb"([:\[,]\s*)(?:NaN|-?Infinity)(?=\s*[,\]}])")
_KEEP = 256  # bytes; indentation is shorter


class Readable(Protocol):
    """What bytes can be read from."""

    def read(self, size: int = -1, /) -> bytes:
        """Return at most ``size`` bytes; none at the end."""
        ...


class _Finite:
    """A stream in which numbers that JSON does not have are null, and keys of a name are counted."""

    def __init__(self, stream: Readable, key: str) -> None:
        self._stream = stream
        self._kept = b""
        self._key = re.compile(rb'"' + re.escape(key.encode()) + rb'"\s*:')
        self._tail = b""
        self.keys = 0

    def _count(self, new: bytes) -> None:
        """Count keys; what may be the beginning of one is looked at again with what follows."""
        text = self._tail + new
        ends = [match.end() for match in self._key.finditer(text)]
        self.keys += len(ends)
        self._tail = text[max(ends[-1] if ends else 0, len(text) - _KEEP) :]

    def drain(self) -> int:
        """Read on to the end and return the number of keys in all."""
        while new := self._stream.read(1 << 20):
            self._count(new)
        return self.keys

    def read(self, size: int = -1) -> bytes:
        """Return bytes; a few at the end of a piece are kept back, since a word may be cut there."""
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
    """Yield a function for each record, in file order; it parses the record when it is called, at once or never.

    Records are the objects at the depth at which ``key`` is first found: elements of a list, values of nested
    mappings. What else is found at that depth is given as it is, for the caller to refuse.

    Where the text is no JSON, each record that is lost is a function that says so; they are counted by their keys.

    Raises
    ------
    ijson.JSONError
        Where the text is no JSON before the first record.
    ValueError
        When ``key`` is nowhere.
    """
    text = _Finite(stream, key)
    events = _Events(iter(ijson.basic_parse(text, use_float=True, multiple_values=True)))
    passed: list[JsonEvent] = []
    depth = _find(events, key, passed)
    yield from _at_depth(text, events, passed, depth)


def items(stream: Readable) -> Iterator[Callable[[], Any]]:
    """Yield a function for each element of a list, as `records` does; what is lost at a break counts as one."""
    text = _Finite(stream, "")
    yield from _at_depth(text, _Events(iter(ijson.basic_parse(text, use_float=True))), [], 1)


def _at_depth(text: _Finite, events: _Events, passed: list[JsonEvent], depth: int) -> Iterator[Callable[[], Any]]:
    given, inside = 0, False
    try:
        for record in _cut(chain(passed, events), depth):
            given, inside = given + 1, True
            yield record
            record.skip()
            inside = events.error is not None  # met when the record was parsed
            if inside:
                break
    except ERRORS:
        pass  # kept by `events`
    if events.error is not None:
        # A record that the text breaks in was given, and is refused when it is parsed.
        yield from [partial(_lost, events.error)] * max(text.drain() - given, 0 if inside else 1)


class _Events:
    """Events of a parser, and the error that ended them, whoever met it."""

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
    """Return whether a text that begins so is JSON lines: an object a line, and no list of them."""
    first, _, rest = begin.lstrip().partition(b"\n")
    return first.startswith(b"{") and first.rstrip().endswith(b"}") and rest.lstrip().startswith(b"{")


def loads(line: bytes) -> Any:
    """Parse a line; numbers that JSON does not have are null."""
    return orjson.loads(_NO_NUMBER.sub(rb"\1null", line))


class Joined:
    """What was read of a stream, and the rest of it."""

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
    """Return how many containers a record is in; events read for it are appended to ``passed``."""
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
        """Go on to the end of the record."""
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
