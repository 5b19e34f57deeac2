"""Evidence for the checks of labels, collected during reading: pairs of nearby frames, bonds and sizes."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gfm_pipeline.apps.dataset.neighbors.neighbor_list import neighbour_list
from gfm_pipeline.apps.ingest.checks.filters import RADII
from gfm_pipeline.apps.ingest.checks.strain_evidence import COLUMNS, PAIRS, StrainCollector
from gfm_pipeline.apps.ingest.records import Record

FIRST, EVERY, THEN = 600, 10_000, 20  # records looked at: so many at first, then so many of each so many
MAX_PAIRS, MAX_BONDS, MAX_GROUPS = 600, 6_000, 200
NOBLE = np.array([2, 10, 18, 36, 54, 86])  # not bonded, so their distances say nothing about units
THOMAS_FERMI = 20.92  # eV, times Z^(7/3)
SAME_CELL = 1e-5  # Angstrom
WINDOW = 48  # earlier frames of the group in the search for the nearest
PAIR_COLUMNS = 5
REACH = 2.2  # in sums of covalent radii: range of the search for a nearest neighbour

FLOATS = NDArray[np.float64]


@dataclass(frozen=True)
class Evidence:
    """Evidence collected from converted records.

    Attributes
    ----------
    pairs
        Distance of the two frames (root mean square, Angstrom), work done by the mean force (eV, the energy that
        should be lost), energy difference (eV), number of atoms, work done by half the difference of the forces (eV,
        the scale of the finite-difference error; 0 is unknown); [P, 5].
    bonds
        Kind (200 Z1 + Z2), length in sums of covalent radii, force along it (eV/Angstrom, positive apart; NaN for
        unknown forces); [B, 3].
    records, unbound
        Examined records, and those with an energy below the limit of the Thomas-Fermi model.
    force_square, force_count
        Sum of squared force components, and their number.
    strains
        Of pairs of strained cells with stresses, see `gfm_pipeline.apps.ingest.checks.strain_evidence`; [S, 6].
    """

    pairs: FLOATS
    bonds: FLOATS
    records: int = 0
    unbound: int = 0
    force_square: float = 0.0
    force_count: int = 0
    strains: FLOATS = field(default_factory=lambda: np.zeros((0, COLUMNS)))

    @staticmethod
    def merge(parts: list[Evidence]) -> Evidence:
        """Join the evidence of several shards; keep the nearest pairs and an even choice of bonds."""
        pairs = np.concatenate([np.zeros((0, PAIR_COLUMNS)), *(_widened(p.pairs, PAIR_COLUMNS) for p in parts)])
        bonds = np.concatenate([np.zeros((0, 3)), *(p.bonds for p in parts)])
        strains = np.concatenate([np.zeros((0, COLUMNS)), *(_widened(p.strains, COLUMNS) for p in parts)])
        return Evidence(
            pairs[np.argsort(pairs[:, 0], kind="stable")[:MAX_PAIRS]],
            bonds[:: max(1, -(-len(bonds) // (4 * MAX_BONDS)))],
            sum(p.records for p in parts),
            sum(p.unbound for p in parts),
            sum(p.force_square for p in parts),
            sum(p.force_count for p in parts),
            strains[np.argsort(strains[:, 0], kind="stable")[:PAIRS]],
        )


def _widened(rows: FLOATS, columns: int) -> FLOATS:
    """Return ``rows`` with zeros in the columns that shards of earlier versions do not have."""
    return np.pad(rows, ((0, 0), (0, columns - rows.shape[1])))


@dataclass
class _LabelledFrame:
    pos: FLOATS
    forces: FLOATS
    energy: float
    cell: FLOATS


@dataclass
class Collector:
    """Collects bounded evidence from converted records, one by one in reading order."""

    _n_records: int = 0
    _n_checked: int = 0
    _unbound: int = 0
    _square: float = 0.0
    _count: int = 0
    _frames: dict[tuple[str | None, bytes], deque[_LabelledFrame]] = field(default_factory=dict)
    _pairs: list[tuple[float, float, float, float, float]] = field(default_factory=list)
    _bonds: list[FLOATS] = field(default_factory=list)
    _n_bonds: int = 0
    _strained: StrainCollector = field(default_factory=StrainCollector)

    def add(self, record: Record) -> None:
        """Add a usable record."""
        at, self._n_records = self._n_records, self._n_records + 1
        if (at >= FIRST and at % EVERY >= THEN) or record.energy is None:
            return
        self._n_checked += 1
        if record.forces is not None:
            self._square += float((record.forces**2).sum())
            self._count += record.forces.size
        self._strained.add(record)
        bound = THOMAS_FERMI * float((np.asarray(record.numbers, dtype=np.float64) ** (7 / 3)).sum())
        self._unbound += record.energy < -bound
        if len(record.numbers) > 1:
            if record.forces is not None:
                self._pair(record, record.forces, record.energy)
            if self._n_bonds < MAX_BONDS:
                found = _bonds(record, record.forces)
                self._bonds.append(found)
                self._n_bonds += len(found)

    def _pair(self, record: Record, forces: FLOATS, energy: float) -> None:
        frames = self._frames.get(key := (record.group, np.asarray(record.numbers, dtype=np.int16).tobytes()))
        if frames is None:
            if len(self._frames) >= MAX_GROUPS:
                del self._frames[next(iter(self._frames))]
            frames = self._frames[key] = deque(maxlen=WINDOW)
        here = _LabelledFrame(record.pos, forces, energy, record.cell)
        fitting = list(frames)
        if fitting and np.any(record.pbc):
            apart = np.abs(np.stack([f.cell for f in fitting]) - record.cell).max(axis=(1, 2))
            fitting = [f for f, far in zip(fitting, apart.tolist(), strict=True) if far <= SAME_CELL]
        if fitting:
            found = _nearest(here, fitting, record.pbc)
            if found is not None:
                distance, work, change, curvature = found
                self._pairs.append((distance, work, change, float(len(record.numbers)), curvature))
        frames.append(here)
        if len(self._pairs) >= 2 * MAX_PAIRS:
            self._pairs = sorted(self._pairs)[:MAX_PAIRS]

    def evidence(self) -> Evidence:
        """Return the collected evidence."""
        own = Evidence(
            np.array(self._pairs, dtype=np.float64).reshape(-1, PAIR_COLUMNS),
            np.concatenate([np.zeros((0, 3)), *self._bonds]),
            self._n_checked,
            self._unbound,
            self._square,
            self._count,
            self._strained.pairs(),
        )
        return Evidence.merge([own])


def _nearest(
    here: _LabelledFrame, others: list[_LabelledFrame], pbc: NDArray[np.bool_]
) -> tuple[float, float, float, float] | None:
    """Return distance, work, energy difference and work of half the difference of the forces, to the nearest frame.

    Returns None if all ``others`` equal this frame.
    """
    pos, forces = np.stack([f.pos for f in others]), np.stack([f.forces for f in others])
    if np.any(pbc):
        moved = here.pos - pos
        periodic = np.asarray(pbc, dtype=bool)
        inverse = np.linalg.pinv(here.cell)
        images = np.rint(moved @ inverse) * periodic
        moved = moved - images @ here.cell
        moved -= moved.mean(axis=1, keepdims=True)
    else:
        centred, own = pos - pos.mean(axis=1, keepdims=True), here.pos - here.pos.mean(axis=0)
        u, _, vt = np.linalg.svd(np.swapaxes(centred, 1, 2) @ own)
        u[:, :, 2] *= np.sign(np.linalg.det(u @ vt))[:, None]
        rotation = u @ vt
        moved, forces = own - centred @ rotation, forces @ rotation
    distance = np.sqrt((moved**2).sum(axis=(1, 2)) / len(here.pos))
    distance[distance < 1e-5] = np.inf
    k = int(np.argmin(distance))
    if not np.isfinite(distance[k]):
        return None
    before, after = (float(-(f * moved[k]).sum()) for f in (forces[k], here.forces))
    return float(distance[k]), (before + after) / 2.0, here.energy - others[k].energy, abs(after - before) / 2.0


def _bonds(record: Record, forces: FLOATS | None) -> FLOATS:
    """Return kind, relative length and force along the bond (or NaN) of each atom to its nearest neighbour [B, 3]."""
    radii = RADII[record.numbers]
    src, dst, image = neighbour_list(record.pos, record.cell, record.pbc, REACH * 2.0 * float(radii.max()))
    keep = ~(np.isin(record.numbers[src], NOBLE) | np.isin(record.numbers[dst], NOBLE))
    src, dst, image = src[keep], dst[keep], image[keep]
    if not len(src):
        return np.zeros((0, 3))
    vector = record.pos[dst] - record.pos[src] + image @ record.cell
    length = np.linalg.norm(vector, axis=1)
    relative = length / (radii[src] + radii[dst])
    order = np.lexsort((relative, src))
    nearest = order[np.unique(src[order], return_index=True)[1]][:64]
    apart = np.full(len(nearest), np.nan)
    if forces is not None:
        pull = forces[dst[nearest]] - forces[src[nearest]]
        apart = (pull * vector[nearest]).sum(axis=1) / (2.0 * length[nearest])
    z = np.sort(np.stack([record.numbers[src[nearest]], record.numbers[dst[nearest]]]).astype(np.int64), axis=0)
    return np.stack([200.0 * z[0] + z[1], relative[nearest], apart], axis=1)
