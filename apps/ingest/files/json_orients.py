"""Reads tables that pandas wrote as JSON, in any orientation, row by row.

The orientations: https://pandas.pydata.org/docs/reference/api/pandas.DataFrame.to_json.html. Lists of records and lines
are streamed, a row at a time. The others (``columns``, ``split``, ``index``, ``table``) store a row in several places
of the file, so memory holds the whole file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import IO, Any

import ijson

from gfm_pipeline.apps.ingest.files import json_stream

PROBE_BYTES = 1 << 20  # bytes that determine an orientation
Row = Callable[[], Any]


def rows(stream: IO[bytes], lines: bool, names: frozenset[str]) -> Iterator[Row]:
    """Yield one function per row, which returns a mapping of columns when called.

    Parameters
    ----------
    stream
        The text, decompressed.
    lines
        Whether the name of the file indicates JSON lines; the text may also indicate it.
    names
        Possible columns of tables, which distinguish columns from rows.

    Raises
    ------
    ValueError
        When the text is not a table.
    """
    begin = stream.read(PROBE_BYTES)
    text = json_stream.Joined(begin, stream)
    if lines or json_stream.are_lines(begin):
        for line in text.lines():
            if line.strip():
                yield partial(json_stream.loads, line)
    elif begin.lstrip()[:1] == b"[":
        yield from json_stream.items(text)
    else:
        yield from turned(json_stream.loads(text.read()), names)


def is_turned(begin: bytes, names: frozenset[str]) -> bool:
    """Return whether a JSON object with this start is a table in columns, or one with separate column names."""
    events = []
    try:
        for event in ijson.basic_parse(begin, use_float=True):
            events.append(event)
            if len(events) == 4:
                break
    except ijson.JSONError:
        pass  # a piece of a text ends anywhere
    event_types = [kind for kind, _ in events]
    if event_types[:2] != ["start_map", "map_key"] or len(events) < 4:
        return False
    first, second = events[1][1], events[3][1]
    if first in ("columns", "index", "data") and event_types[2] == "start_array":
        return True
    if first == "schema" and event_types[2] == "start_map":
        return True
    return first in names and event_types[2:] == ["start_map", "map_key"] and str(second).isdecimal()


def turned(table: Any, names: frozenset[str]) -> Iterator[Row]:
    """Yield the rows of a table held in memory."""
    if not isinstance(table, dict) or not table:
        raise ValueError("it is not a table: neither a list of records nor columns of them")
    data = table.get("data")
    if isinstance(data, list) and isinstance(table.get("columns"), list):  # split
        for values in data:
            yield partial(_zipped, table["columns"], values)
    elif isinstance(data, list) and "schema" in table:  # table
        yield from (partial(_given, row) for row in data)
    elif names & table.keys() and all(isinstance(column, dict) for column in table.values()):  # columns
        keys = dict.fromkeys(key for column in table.values() for key in column)
        for key in keys:
            yield partial(_across, table, key)
    elif names & table.keys() and all(isinstance(column, list) for column in table.values()):
        for k in range(max(map(len, table.values()))):
            yield partial(_at, table, k)
    elif all(isinstance(row, dict) for row in table.values()):  # index
        yield from (partial(_given, row) for row in table.values())
    else:
        found = ", ".join(list(map(str, table))[:8])
        raise ValueError(f"it is not a table that pandas writes; the file holds {found}")


def _given(row: Any) -> Any:
    return row


def _zipped(columns: list[Any], values: Any) -> dict[Any, Any]:
    if not isinstance(values, list) or len(values) != len(columns):
        raise ValueError("the row has more or fewer fields than the table has columns")
    return dict(zip(columns, values, strict=True))


def _across(table: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: column.get(key) for name, column in table.items()}


def _at(table: dict[str, Any], k: int) -> dict[str, Any]:
    return {name: column[k] for name, column in table.items()}
