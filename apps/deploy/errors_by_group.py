"""Running sums of prediction errors on labelled structures: over all, by element, size and group."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from numpy.typing import NDArray

from gfm_pipeline.apps.calibrate.groups import size_class
from gfm_pipeline.apps.deploy.samples import EntrySample
from gfm_pipeline.core.contracts.deploy import ErrorsOf, WorstStructure
from gfm_pipeline.core.contracts.targets import Level, Target

WORST = 10  # structures named per target
Floats = NDArray[np.float64]


@dataclass
class GroupSums:
    """Sums of errors over one group, and of the numbers that its coverage needs."""

    entries: int = 0
    absolute: float = 0.0
    square: float = 0.0
    structures: int = 0  # with an interval; then sums of their entries, entries inside, squares and products
    bounded: int = 0
    covered: int = 0
    bounded_square: int = 0
    covered_square: int = 0
    product: int = 0

    def add(self, error: Floats, interval: Floats | None) -> None:
        """Add the errors of one structure, and the half-widths of their intervals."""
        self.entries += error.size
        self.absolute += float(np.abs(error).sum())
        self.square += float(np.square(error).sum())
        if interval is not None:
            inside = int(np.count_nonzero(np.abs(error) <= interval))
            self.structures += 1
            self.bounded += error.size
            self.covered += inside
            self.bounded_square += error.size**2
            self.covered_square += inside**2
            self.product += error.size * inside

    def merge(self, other: GroupSums) -> None:
        """Add the sums over other structures."""
        for one in fields(self):
            setattr(self, one.name, getattr(self, one.name) + getattr(other, one.name))

    def coverage(self) -> tuple[float | None, float | None]:
        """Return the share of entries inside their intervals and its standard error; None without intervals.

        Entries of one structure depend on each other: the error is that of `metrics.coverage_error`, from sums.
        """
        if not self.bounded:
            return None, None
        share, n = self.covered / self.bounded, self.structures
        if n < 2:
            return share, 0.5
        squares = self.covered_square - 2.0 * share * self.product + share**2 * self.bounded_square
        return share, max(math.sqrt(n / (n - 1.0) * max(squares, 0.0)) / self.bounded, 1.0 / (n + 2.0))


@dataclass(frozen=True)
class GroupState:
    """The sums of one target over one group."""

    target: str
    by: str
    group: str
    sums: GroupSums


@dataclass(frozen=True)
class ErrorState:
    """A table of errors as records of JSON."""

    groups: tuple[GroupState, ...] = ()
    worst: tuple[WorstStructure, ...] = ()


@dataclass
class ErrorTable:
    """Sums of the errors of each target.

    Parameters
    ----------
    targets
        The predicted targets.
    sample
        Receives the entries that figures may show.
    """

    targets: tuple[Target, ...]
    sample: EntrySample | None = None
    _sums: dict[tuple[str, str, str], GroupSums] = field(default_factory=dict)
    _worst: dict[str, list[tuple[float, int, WorstStructure]]] = field(default_factory=dict)
    _kept: int = 0

    def add(
        self,
        where: tuple[str, int],
        atoms: Atoms,
        labels: Mapping[str, Any],
        results: Mapping[str, Any],
        group: str | None,
        references: Mapping[str, Any] | None = None,
    ) -> bool:
        """Add a structure, record ``where`` (file and number); return whether it has a label of any target.

        ``references`` are subtracted from label and prediction in the sample, by target.
        """
        known = False
        for target in self.targets:
            label = labels.get(target.name)
            if label is None:
                continue
            size = len(atoms) if target.per_atom else 1
            error = (np.asarray(results[target.name], dtype=np.float64) - np.asarray(label, dtype=np.float64)) / size
            if not np.isfinite(error).all():
                continue
            known = True
            interval = results.get(f"{target.name}_interval")
            bound = None if interval is None else np.asarray(interval, dtype=np.float64) / size
            self._add(target, atoms, error, bound, group)
            self._note(target, where, atoms, float(np.abs(error).max()))
            if self.sample is not None:
                less = np.asarray((references or {}).get(target.name, 0.0))
                mean = (np.asarray(results[target.name], dtype=np.float64) - less) / size
                spread = np.asarray(results[f"{target.name}_std"], dtype=np.float64) / size
                self.sample.add(target.name, mean - error, mean, spread, bound)
        return known

    def _add(self, target: Target, atoms: Atoms, error: Floats, interval: Floats | None, group: str | None) -> None:
        groups = [("all", "all"), ("size", size_class(len(atoms)))]
        if group is not None:
            groups.append(("group", group))
        if target.level is Level.GRAPH:
            groups += [("element", str(symbol)) for symbol in dict.fromkeys(atoms.symbols)]
        for by, name in groups:
            self._sums.setdefault((target.name, by, name), GroupSums()).add(error, interval)
        if target.level is Level.ATOM:
            for number in np.unique(atoms.numbers):
                of_element = atoms.numbers == number
                bound = None if interval is None else interval[of_element]
                key = (target.name, "element", chemical_symbols[number])
                self._sums.setdefault(key, GroupSums()).add(error[of_element], bound)

    def _note(self, target: Target, where: tuple[str, int], atoms: Atoms, error: float) -> None:
        heap = self._worst.setdefault(target.name, [])
        if len(heap) == WORST and error <= heap[0][0]:
            return
        self._keep(WorstStructure(target.name, target.error_unit, *where, atoms.get_chemical_formula(), error))

    def _keep(self, found: WorstStructure) -> None:
        heap = self._worst.setdefault(found.target, [])
        self._kept += 1
        heapq.heappush(heap, (found.error, -self._kept, found))
        if len(heap) > WORST:
            heapq.heappop(heap)

    def state(self) -> ErrorState:
        """Return all sums, from which another table can go on."""
        return ErrorState(tuple(GroupState(*key, sums) for key, sums in self._sums.items()), tuple(self.worst()))

    def merge(self, state: ErrorState) -> None:
        """Add the sums of a table of other structures."""
        for one in state.groups:
            self._sums.setdefault((one.target, one.by, one.group), GroupSums()).merge(one.sums)
        for structure in state.worst:
            self._keep(structure)

    def errors(self) -> Iterator[ErrorsOf]:
        """Yield the errors of each target: over all, by size, element and group."""
        units = {target.name: target.error_unit for target in self.targets}
        for (target, by, group), sums in self._sums.items():
            mae, rmse = sums.absolute / sums.entries, float(np.sqrt(sums.square / sums.entries))
            yield ErrorsOf(target, units[target], by, group, sums.entries, mae, rmse, *sums.coverage())

    def worst(self) -> Iterator[WorstStructure]:
        """Yield the structures with the largest error of each target, the largest first."""
        for heap in self._worst.values():
            yield from (structure for _, _, structure in sorted(heap, reverse=True))
