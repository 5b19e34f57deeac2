"""Candidates as rows of numbers: surrogates learn from rows, and thousands of proposals are drawn as rows at once.

A row has one number per flat column of a `gfm_pipeline.search.space.SearchSpace`: the value itself in a range, the
position of the value in a choice. Columns that the row's algorithm does not use hold their first value, so that equal
candidates are equal rows, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gfm_pipeline.core.errors import ConfigError
from gfm_pipeline.search.space import NOTHING_LEFT, ROUNDS, Choice, Dimension, SearchSpace

DRAWS_TRIED = 5000  # draws, at least one of which must be allowed


@dataclass(frozen=True)
class EncodedColumn:
    """One flat column: the plain name of its hyperparameter, and its dimension."""

    name: str
    dimension: Dimension

    @property
    def is_name(self) -> bool:
        """Whether the values are names or switches, which have no order."""
        return isinstance(self.dimension, Choice) and not all(_is_number(value) for value in self.dimension.values)

    @property
    def is_discrete(self) -> bool:
        """Whether there are countable values."""
        return isinstance(self.dimension, Choice) or self.dimension.whole

    @property
    def count(self) -> int | None:
        """Number of values; None for a real range."""
        if isinstance(self.dimension, Choice):
            return len(self.dimension.values)
        return int(self.dimension.high) - int(self.dimension.low) + 1 if self.dimension.whole else None

    def within(self, values: Dimension, codes: np.ndarray) -> np.ndarray:
        """Return which codes represent one of ``values``, shape (codes,)."""
        if isinstance(self.dimension, Choice):
            known = np.array([values.contains(value) for value in self.dimension.values])
            return np.asarray(known[codes.astype(int)])
        if isinstance(values, Choice):
            return np.isin(codes, np.array([v for v in values.values if _is_number(v)], float))
        return np.asarray((values.low <= codes) & (codes <= values.high))

    def from_unit(self, unit: np.ndarray) -> np.ndarray:
        """Map numbers in [0, 1) to codes."""
        dimension = self.dimension
        if isinstance(dimension, Choice):
            return np.asarray(np.floor(unit * len(dimension.values)))
        low, high = dimension.low, dimension.high
        if dimension.whole:
            high += 1
        drawn = low * (high / low) ** unit if dimension.log else low + unit * (high - low)
        # floor(exp(log)) may be one too low: use the ends of the range themselves
        return np.asarray(np.clip(np.floor(drawn) if dimension.whole else drawn, dimension.low, dimension.high))

    def to_unit(self, codes: np.ndarray) -> np.ndarray:
        """Map codes to the middle of the interval that `from_unit` maps to them, in [0, 1]."""
        dimension = self.dimension
        if isinstance(dimension, Choice):
            return np.asarray((codes + 0.5) / len(dimension.values))
        low, high = dimension.low, dimension.high
        if dimension.whole:
            codes, high = codes + 0.5, high + 1
        if dimension.log:
            return np.asarray(np.log(codes / low) / np.log(high / low))
        return np.asarray((codes - low) / (high - low))

    def decode(self, codes: np.ndarray) -> list[Any]:
        """Return the values of codes."""
        if isinstance(self.dimension, Choice):
            return [self.dimension.values[int(code)] for code in codes]
        return [int(code) for code in codes] if self.dimension.whole else [float(code) for code in codes]

    def encode(self, values: Sequence[Any]) -> list[float]:
        """Return the codes of values; raises KeyError for a value that is not in a choice."""
        if isinstance(self.dimension, Choice):
            known = {value: float(index) for index, value in enumerate(self.dimension.values)}
            return [known[value] for value in values]
        return [float(value) for value in values]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


class Encoding:
    """Turns settings of candidates into rows of numbers and back.

    Attributes
    ----------
    columns
        The flat columns, in the order of the rows' numbers.
    """

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        flat = space.columns()
        self._keys = list(flat)
        self.columns = [EncodedColumn(key.partition("@")[0], dimension) for key, dimension in flat.items()]
        self._first = np.array([column.encode([column.dimension.first])[0] for column in self.columns])
        self._algorithm = self._keys.index("algorithm")
        self._active = np.array([[self._is_active(key, algorithm) for key in flat] for algorithm in space.algorithms])
        self._features = [c for c, column in enumerate(self.columns) if column.count != 1]

    def _is_active(self, key: str, algorithm: str) -> bool:
        name, _, owner = key.partition("@")
        return owner == algorithm if owner else name not in self.space.own.get(algorithm, {})

    def algorithm(self, rows: np.ndarray) -> np.ndarray:
        """Return the position of each row's algorithm in the space, shape (rows,)."""
        return np.asarray(rows[:, self._algorithm].astype(int))

    def uses(self, column: int) -> np.ndarray:
        """Return which algorithms use a column, shape (algorithms,)."""
        return np.asarray(self._active[:, column])

    def active(self, rows: np.ndarray) -> np.ndarray:
        """Return which columns each row's algorithm uses, shape (rows, columns)."""
        return np.asarray(self._active[self.algorithm(rows)])

    def canonical(self, rows: np.ndarray) -> np.ndarray:
        """Return rows with their unused columns at the first value."""
        return np.where(self.active(rows), rows, self._first)

    def encode(self, settings: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """Return one row per candidate; raises KeyError for a value that is not in the space."""
        if not settings:
            return np.empty((0, len(self.columns)))
        rows = np.empty((len(settings), len(self.columns)))
        # A candidate of an older journal may lack newer hyperparameters; unused columns are corrected below.
        for c, column in enumerate(self.columns):
            first = column.dimension.first
            mine = self._active[:, c]
            names = {a for a, used in zip(self.space.algorithms, mine, strict=True) if used}
            values = [s.get(column.name, first) if s["algorithm"] in names else first for s in settings]
            rows[:, c] = column.encode(values)
        return self.canonical(rows)

    def decode(self, rows: np.ndarray) -> list[dict[str, Any]]:
        """Return the settings of each row."""
        values = [column.decode(rows[:, c]) for c, column in enumerate(self.columns)]
        used = self.active(rows)
        found = []
        for r in range(len(rows)):
            mine = [c for c in range(len(self.columns)) if used[r, c]]
            found.append({self.columns[c].name: values[c][r] for c in mine})
        return found

    def units(self, rows: np.ndarray) -> np.ndarray:
        """Return rows as numbers in [0, 1], evenly spread over each column's scale."""
        return np.stack([column.to_unit(rows[:, c]) for c, column in enumerate(self.columns)], axis=1)

    def from_units(self, units: np.ndarray, *, canonical: bool = True) -> np.ndarray:
        """Return the rows of numbers in [0, 1), shape (rows, columns)."""
        rows = np.stack([column.from_unit(units[:, c]) for c, column in enumerate(self.columns)], axis=1)
        return self.canonical(rows) if canonical else rows

    def of_algorithm(self, rows: np.ndarray, algorithm: int | np.ndarray) -> np.ndarray:
        """Return rows, not yet canonical, with the given algorithm, or with one algorithm per row."""
        rows = rows.copy()
        rows[:, self._algorithm] = algorithm
        return self.canonical(rows)

    def sample(self, n: int, rng: np.random.Generator, algorithms: np.ndarray | None = None) -> np.ndarray:
        """Draw ``n`` allowed canonical rows evenly; ``algorithms`` gives the algorithm of each row.

        Raises
        ------
        ConfigError
            When nearly all combinations are forbidden.
        """
        rows = self._drawn(n, rng, algorithms)
        for _ in range(ROUNDS):
            bad = np.flatnonzero(~self.allowed(rows))
            if not len(bad):
                return rows
            rows[bad] = self._drawn(len(bad), rng, None if algorithms is None else algorithms[bad])
        raise ConfigError(NOTHING_LEFT, "Forbid less, or narrow the ranges instead.")

    def _drawn(self, n: int, rng: np.random.Generator, algorithms: np.ndarray | None) -> np.ndarray:
        rows = self.from_units(rng.random((n, len(self.columns))), canonical=False)
        return self.canonical(rows) if algorithms is None else self.of_algorithm(rows, algorithms)

    def allowed(self, rows: np.ndarray) -> np.ndarray:
        """Return which rows have no forbidden combination, shape (rows,)."""
        found = np.ones(len(rows), bool)
        if self.space.forbidden:
            used = self.active(rows)
        for combination in self.space.forbidden:
            hit = np.ones(len(rows), bool)
            for name, values in combination.items():
                one = np.zeros(len(rows), bool)
                for c, column in enumerate(self.columns):
                    if column.name == name:
                        one |= used[:, c] & column.within(values, rows[:, c])
                hit &= one
            found &= ~hit
        return found

    def algorithms_without_any(self) -> list[str]:
        """Return the algorithms for which forbidden combinations reject all of many draws."""
        rng, missing = np.random.default_rng(0), []
        for a, name in enumerate(self.space.algorithms):
            if not self.allowed(self._drawn(DRAWS_TRIED, rng, np.full(DRAWS_TRIED, a))).any():
                missing.append(name)
        return missing

    @property
    def size(self) -> int | None:
        """Number of distinct settings, including forbidden ones; None: too many to count."""
        total = 0
        for mine in self._active:
            counts = [column.count for column, used in zip(self.columns, mine, strict=True) if used]
            if any(count is None for count in counts):
                return None
            total += math.prod(count for count in counts if count is not None)
        return total // len(self._active)  # the algorithm itself is a column, too

    def enumerate(self) -> np.ndarray:
        """Return every allowed setting of a space with a known `size`, as rows."""
        found = []
        for a, mine in enumerate(self._active):
            values = []
            for c, column in enumerate(self.columns):
                if c == self._algorithm:
                    values.append(np.array([float(a)]))
                elif mine[c]:
                    start = 0.0 if isinstance(column.dimension, Choice) else column.dimension.low
                    values.append(start + np.arange(float(column.count or 1)))
                else:
                    values.append(self._first[[c]])
            found.append(np.stack([grid.ravel() for grid in np.meshgrid(*values, indexing="ij")], axis=1))
        everything = np.vstack(found)
        return np.asarray(everything[self.allowed(everything)])

    def features(self, rows: np.ndarray) -> np.ndarray:
        """Return the inputs of a regression: units of ordered values, and a column of zeros and ones per name."""
        units = self.units(rows)
        found = []
        for c in self._features:
            column = self.columns[c]
            if column.is_name and (column.count or 0) > 2:
                found += [rows[:, c] == code for code in range(column.count or 0)]
            else:
                found.append(units[:, c])
        return np.stack(found, axis=1).astype(np.float32) if found else np.zeros((len(rows), 1), np.float32)


def row_keys(rows: np.ndarray) -> list[bytes]:
    """Return keys that are equal exactly for equal rows."""
    return [row.tobytes() for row in np.ascontiguousarray(rows)]


def new_rows(rows: np.ndarray, keys: Iterable[bytes]) -> np.ndarray:
    """Return the rows whose key is not in ``keys``, each once, in their order."""
    known, kept = set(keys), []
    for index, key in enumerate(row_keys(rows)):
        if key not in known:
            known.add(key)
            kept.append(index)
    return rows[kept]
