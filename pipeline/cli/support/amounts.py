"""Numbers on the command line: finite, and within useful limits."""

from __future__ import annotations

import math
from typing import Any

import click

LARGEST = 10**9


def _from(minimum: float | None, *, above: bool) -> str:
    """Return the lower limit for the help; the upper one only keeps nonsense out."""
    return f"x{'>' if above else '>='}{minimum or 0:g}"


class Count(click.IntRange):
    """A whole number from ``min`` up to a billion."""

    def __init__(self, minimum: int = 1) -> None:
        super().__init__(min=minimum, max=LARGEST)

    def _describe_range(self) -> str:
        return _from(self.min, above=False)


class Amount(click.FloatRange):
    """A number above ``min`` (with ``closed``: from ``min`` on) and up to a billion; neither infinite nor NaN."""

    def __init__(self, minimum: float = 0.0, *, closed: bool = False) -> None:
        super().__init__(min=minimum, min_open=not closed, max=LARGEST)

    def _describe_range(self) -> str:
        return _from(self.min, above=self.min_open)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number; fails with a sentence for other text."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):  # NaN passes every range
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number
