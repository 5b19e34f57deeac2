"""A table of text, for Markdown, HTML and the terminal."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """A column's title, and whether it contains numbers (right-aligned)."""

    title: str
    numeric: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of text under columns; ``note`` is one line below."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
