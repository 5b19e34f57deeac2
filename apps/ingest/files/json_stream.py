"""Records of large JSON files one at a time: memory is that of one record, however the records are nested."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain
from typing import Any, Protocol

import ijson

ERRORS = (ijson.JSONError,)
Event = tuple[str, Any]
_OPEN = ("start_map", "start_array")
_CLOSE = ("end_map", "end_array")
_LOOK_AHEAD = 1_000_000  # events; a record that is not found among so many is not there
# Python and pymatgen write these, and no JSON parser but Python's reads them.
_NO_NUMBER = re.compile(rb"([:\[,]\s*)(?:NaN|-?Infinity)(?=\s*[,\]}])")
_KEEP = 256  # bytes; indentation is shorter


class Readable(Protocol):
    """What bytes can be read from."""

    def read(self, size: int = -1, /) -> bytes:
        """Return at most ``size`` bytes; none at the end."""
        ...


class _Finite:
    """A stream in which numbers that JSON does not have are null."""

    def __init__(self, stream: Readable) -> None:
        self._stream = stream
        self._kept = b""

    def read(self, size: int = -1) -> bytes:
        """Return bytes; a few at the end of a piece are kept back, since a word may be cut there."""
        if size == 0:
            return b""
        while True:
            new = self._stream.read(size)
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

    Raises
    ------
    ijson.JSONError
        Where the text is no JSON; it has come to the end of a file that was cut short.
    ValueError
        When ``key`` is nowhere.
    """
    events = iter(ijson.basic_parse(_Finite(stream), use_float=True))
    seen: list[Event] = []
    depth = _find(events, key, seen)
    events = chain(seen, events)
    seen = []
    level = 0
    for event, value in events:
        if event in _CLOSE:
            level -= 1
        elif event == "map_key":
            continue
        elif level == depth:
            record = _Record(event, value, events)
            yield record
            record.skip()
        elif event in _OPEN:
            level += 1


def _find(events: Iterator[Event], key: str, seen: list[Event]) -> int:
    """Return how many containers a record is in; events read for it are appended to ``seen``."""
    level = 0
    for event, value in events:
        seen.append((event, value))
        if event in _OPEN:
            level += 1
        elif event in _CLOSE:
            level -= 1
        elif event == "map_key" and value == key:
            return level - 1
        if len(seen) > _LOOK_AHEAD:
            break
    raise ValueError(f"there is no {key!r} in this file")


class _Record:
    """One record, not yet parsed."""

    def __init__(self, event: str, value: Any, events: Iterator[Event]) -> None:
        self._event, self._value, self._events = event, value, events
        self._level = 1 if event in _OPEN else 0

    def __call__(self) -> Any:
        """Parse the record. Records are parsed in file order only."""
        return _build(self._event, self._value, self._counted())

    def _counted(self) -> Iterator[Event]:
        for event, value in self._events:
            self._level += (event in _OPEN) - (event in _CLOSE)
            yield event, value

    def skip(self) -> None:
        """Go on to the end of the record; where the file is cut short, the record's own parsing says so."""
        if self._level:
            with suppress(*ERRORS):
                next((None for _ in self._counted() if not self._level), None)


def _build(event: str, value: Any, events: Iterator[Event]) -> Any:
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
