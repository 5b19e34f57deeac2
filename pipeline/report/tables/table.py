"""A table of text, as Markdown, HTML and the terminal draw it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """A column's title, and whether it holds numbers (drawn to the right)."""

    title: str
    numeric: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of text under columns; ``note`` is one line below."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
