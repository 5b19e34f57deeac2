"""The search space: mixed, conditional on the algorithm, and flat towards DeepHyper.

Conditions in ConfigSpace turn every draw into a slow Python loop, and DeepHyper returns values for
inactive hyperparameters. So DeepHyper gets a flat space, with one column per hyperparameter
(``hidden``, ``hidden@PaiNN``). Inactive columns hold their first value, and `SearchSpace.settings`
reads from a row only the hyperparameters that its algorithm uses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gfm_pipeline.core.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np

Value = Any  # str | int | float
ROUNDS = 100  # of draws that replace forbidden ones
NOTHING_LEFT = "search.space.forbidden leaves next to nothing of the search space."


@dataclass(frozen=True)
class Choice:
    """One of a few values; numbers keep their order."""

    values: tuple[Value, ...]

    @property
    def first(self) -> Value:
        """Return the value of an inactive column."""
        return self.values[0]

    @property
    def largest(self) -> Value:
        """Return the largest value, of numbers."""
        return max(self.values)

    def draw(self, uniform: np.ndarray) -> list[Value]:
        """Map uniform numbers in [0, 1) to values."""
        return [self.values[int(u * len(self.values))] for u in uniform]

    def contains(self, value: Value) -> bool:
        """Return whether ``value`` is one of the choices."""
        return value in self.values

    def meets(self, other: Dimension) -> bool:
        """Return whether the two have a common value."""
        return any(other.contains(value) for value in self.values)

    def __str__(self) -> str:
        """Return the values in words."""
        return " or ".join(map(str, self.values))


@dataclass(frozen=True)
class Range:
    """An interval, linear or logarithmic, of real or whole numbers (both ends included)."""

    low: float
    high: float
    log: bool = False
    whole: bool = False

    @property
    def first(self) -> Value:
        """Return the value of an inactive column."""
        return int(self.low) if self.whole else self.low

    @property
    def largest(self) -> Value:
        """Return the upper end."""
        return self.high

    def draw(self, uniform: np.ndarray) -> list[Value]:
        """Map uniform numbers in [0, 1) to values."""
        if self.whole:
            low, high = self.low, self.high + 1
            grid = low * (high / low) ** uniform if self.log else low + uniform * (high - low)
            return [int(min(math.floor(v), self.high)) for v in grid]
        grid = self.low * (self.high / self.low) ** uniform if self.log else self.low + uniform * (self.high - self.low)
        return [float(v) for v in grid]

    def contains(self, value: Value) -> bool:
        """Return whether ``value`` lies in the interval."""
        return not isinstance(value, str) and bool(self.low <= value <= self.high)

    def meets(self, other: Dimension) -> bool:
        """Return whether the two have a common value; two intervals of whole numbers need only overlap."""
        if isinstance(other, Choice):
            return other.meets(self)
        return self.low <= other.high and other.low <= self.high

    def __str__(self) -> str:
        """Return the interval in words."""
        return f"from {self.low:g} to {self.high:g}"


Dimension = Choice | Range


@dataclass(frozen=True)
class SearchSpace:
    """Shared dimensions, and dimensions of single algorithms, which replace or extend the shared ones.

    Parameters
    ----------
    shared
        Dimension by name; must hold ``algorithm`` (a `Choice` of names).
    own
        Algorithm name to its dimensions by name.
    forbidden
        Forbidden combinations: values by name that no candidate may have all together.
    """

    shared: Mapping[str, Dimension]
    own: Mapping[str, Mapping[str, Dimension]]
    forbidden: tuple[Mapping[str, Dimension], ...] = ()

    @property
    def algorithms(self) -> tuple[str, ...]:
        """Return the names of the algorithms in the space."""
        choice = self.shared["algorithm"]
        return tuple(choice.values) if isinstance(choice, Choice) else ()

    def allows(self, settings: Mapping[str, Value]) -> bool:
        """Return whether no forbidden combination is among the settings of a candidate."""
        return not any(
            all(name in settings and values.contains(settings[name]) for name, values in combination.items())
            for combination in self.forbidden
        )

    def dimensions(self, name: str) -> list[Dimension]:
        """Return the dimensions of a hyperparameter, one per algorithm that has it."""
        found = (self.own.get(algorithm, {}).get(name, self.shared.get(name)) for algorithm in self.algorithms)
        return [dimension for dimension in found if dimension is not None]

    def largest(self, name: str) -> float:
        """Return the largest value of a number that any candidate can have."""
        return float(max(self.own.get(a, {}).get(name, self.shared[name]).largest for a in self.algorithms))

    def columns(self) -> dict[str, Dimension]:
        """Return the flat columns: shared names, and ``name@Algorithm`` for an algorithm's own."""
        flat = dict(self.shared)
        for algorithm, dimensions in self.own.items():
            flat |= {f"{name}@{algorithm}": d for name, d in dimensions.items()}
        return flat

    def canonical(self, row: Mapping[str, Value]) -> dict[str, Value]:
        """Return ``row`` with every inactive column at its first value: equal candidates, equal rows."""
        algorithm = row["algorithm"]
        replaced = set(self.own.get(algorithm, {}))
        result = {}
        for column, dimension in self.columns().items():
            name, _, owner = column.partition("@")
            active = owner == algorithm if owner else name not in replaced
            result[column] = _plain(row[column]) if active else dimension.first
        return result

    def settings(self, row: Mapping[str, Value]) -> dict[str, Value]:
        """Return the hyperparameters a candidate uses, by plain name."""
        algorithm = row["algorithm"]
        own = self.own.get(algorithm, {})
        chosen = {name: _plain(row[name]) for name in self.shared if name not in own}
        return chosen | {name: _plain(row[f"{name}@{algorithm}"]) for name in own}

    def row(self, settings: Mapping[str, Value]) -> dict[str, Value]:
        """Return the canonical flat row of a candidate's settings (the inverse of `settings`)."""
        algorithm = settings["algorithm"]
        own = self.own.get(algorithm, {})
        result = {}
        for column, dimension in self.columns().items():
            name, _, owner = column.partition("@")
            active = owner == algorithm if owner else name not in own
            # a candidate of an older journal may lack newer hyperparameters
            result[column] = settings.get(name, dimension.first) if active else dimension.first
        return result

    def sample(self, n: int, rng: np.random.Generator, algorithm: str | None = None) -> list[dict[str, Value]]:
        """Draw ``n`` canonical rows, stratified in every dimension (Latin hypercube, McKay et al. 1979).

        Forbidden rows are drawn again.

        Raises
        ------
        ConfigError
            When nearly all combinations are forbidden.
        """
        rows = self._drawn(n, rng, algorithm)
        for _ in range(ROUNDS):
            bad = [place for place, row in enumerate(rows) if not self.allows(self.settings(row))]
            if not bad:
                return rows
            for place, row in zip(bad, self._drawn(len(bad), rng, algorithm), strict=True):
                rows[place] = row
        raise ConfigError(NOTHING_LEFT, "Forbid less, or narrow the ranges instead.")

    def _drawn(self, n: int, rng: np.random.Generator, algorithm: str | None) -> list[dict[str, Value]]:
        columns = self.columns()
        drawn = {}
        for name, dimension in columns.items():
            strata = (rng.permutation(n) + rng.random(n)) / n
            drawn[name] = dimension.draw(strata)
        rows = [{name: values[i] for name, values in drawn.items()} for i in range(n)]
        if algorithm is not None:
            rows = [row | {"algorithm": algorithm} for row in rows]
        return [self.canonical(row) for row in rows]


def _plain(value: Value) -> Value:
    """Return a Python scalar for a numpy one."""
    import numpy as np  # here: checking a workflow does not need it, and its import is slow

    return value.item() if isinstance(value, np.generic) else value
