"""Checks stress labels by finite differences of energy labels, from pairs of strained cells.

Between two frames of one group whose cells differ by a small strain, the energy changes by the mean of volume times
stress, times the strain, minus the work of the forces on additional displacements of atoms. The slope of one against
the other is 1 for consistent labels, -1 if the stress is positive under compression, a ratio of units if units are
mixed, and the inverse of the volume if the label is a virial.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gfm_pipeline.apps.ingest.records import Record
from gfm_pipeline.core.contracts.targets import STRESS

FLOATS = NDArray[np.float64]
LEAST, MOST = 1e-4, 0.15  # size of compared strains: Frobenius norm
LENGTH = 3.0  # Angstrom: this displacement counts like a strain of 1
STILL = 1e-3  # Angstrom: without known forces, atoms must move with the cell
WINDOW, GROUPS, PAIRS = 48, 200, 600
COLUMNS = 6


@dataclass
class _StrainedFrame:
    pos: FLOATS
    cell: FLOATS
    stress: FLOATS
    energy: float
    forces: FLOATS | None


@dataclass
class StrainCollector:
    """Collects the nearest pairs of cells from converted records, one by one."""

    _frames: dict[tuple[str | None, bytes], deque[_StrainedFrame]] = field(default_factory=dict)
    _pairs: list[tuple[float, ...]] = field(default_factory=list)

    def add(self, record: Record) -> None:
        """Add a usable record."""
        stress = record.labels.get(STRESS.name)
        if stress is None or record.energy is None or not np.all(record.pbc) or not np.any(stress):
            return  # a zero stress usually means that none was computed
        key = (record.group, np.asarray(record.numbers, dtype=np.int16).tobytes())
        frames = self._frames.get(key)
        if frames is None:
            if len(self._frames) >= GROUPS:
                del self._frames[next(iter(self._frames))]
            frames = self._frames[key] = deque(maxlen=WINDOW)
        here = _StrainedFrame(record.pos, record.cell, stress, record.energy, record.forces)
        found = [pair for other in frames if (pair := _pair(other, here)) is not None]
        if found:
            self._pairs.append(min(found))
        frames.append(here)
        if len(self._pairs) >= 2 * PAIRS:
            self._pairs = sorted(self._pairs)[:PAIRS]

    def pairs(self) -> FLOATS:
        """Return the rows [P, 6].

        Columns: distance, expected and actual change of the energy (eV), number of atoms, volume (Angstrom^3), work of
        half the difference of stresses and forces (eV).
        """
        return np.array(sorted(self._pairs)[:PAIRS], dtype=np.float64).reshape(-1, COLUMNS)


def _pair(one: _StrainedFrame, other: _StrainedFrame) -> tuple[float, ...] | None:
    """Return the row of `StrainCollector.pairs` for two frames; None if they cannot be compared."""
    if np.abs(one.cell - other.cell).max() > MOST * np.abs(one.cell).max():
        return None
    deformation = np.linalg.solve(one.cell, other.cell)  # of row vectors: other.cell = one.cell @ deformation
    strain = 2.0 * np.linalg.solve(deformation + np.eye(3), deformation - np.eye(3))  # its logarithm, to third order
    strain = 0.5 * (strain + strain.T)
    size = float(np.linalg.norm(strain))
    if not LEAST < size < MOST:
        return None
    moved = other.pos - one.pos @ deformation
    moved = moved - np.rint(moved @ np.linalg.inv(other.cell)) @ other.cell
    moved = moved - moved.mean(axis=0)
    known = one.forces is not None and other.forces is not None
    if not known and float(np.abs(moved).max()) > STILL:
        return None
    works = [
        0.0 if frame.forces is None or not known else float((frame.forces * moved).sum()) for frame in (one, other)
    ]
    volumes = [float(abs(np.linalg.det(frame.cell))) for frame in (one, other)]
    strained = [float((v * frame.stress * strain).sum()) for v, frame in zip(volumes, (one, other), strict=True)]
    far = size + float(np.sqrt((moved**2).sum() / len(moved))) / LENGTH
    return (
        far,
        sum(strained) / 2,
        other.energy - one.energy + sum(works) / 2,
        float(len(moved)),
        float(np.mean(volumes)),
        abs(strained[1] - strained[0] - works[1] + works[0]) / 2,
    )
