"""Do energies, forces and positions of a source belong together? Evidence from the records, and what it says.

Three independent looks, each silent where the data do not allow it:

Work: between two nearby frames of one group, the energy changes by minus the mean force times the displacement
(trapezoidal rule; exact for harmonic motion). The slope of one against the other is 1 for consistent labels, -1 where
the force label is a gradient, and a ratio of units where the units are mixed. Molecules are superposed first
(W. Kabsch, Acta Cryst. A 32, 922 (1976)). The error of the rule grows with the third power of the displacement, so
each pair is weighted with its inverse sixth power.

Bonds: of a bond that is longer than others of its kind, the atoms are drawn together. This needs single frames only.

Plausibility: nearest neighbours are about a sum of covalent radii apart; no atom is bound more strongly than its
electrons in the Thomas-Fermi model, -0.7687 Z^(7/3) Hartree.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gfm_pipeline.apps.dataset.neighbors.neighbor_list import neighbour_list
from gfm_pipeline.apps.ingest.checks.filters import RADII
from gfm_pipeline.apps.ingest.records import Record

SAME_CELL = 1e-5  # Angstrom
WINDOW = 48  # earlier frames of the group among which the nearest is looked for
FIRST, EVERY, THEN = 600, 10_000, 20  # records looked at: so many at first, then so many of each so many
MAX_PAIRS, MAX_BONDS, MAX_GROUPS = 600, 6_000, 200
MIN_PAIRS, MIN_BONDS = 15, 200
REACH = 2.2  # in sums of covalent radii: how far a nearest neighbour is looked for
NOBLE = np.array([2, 10, 18, 36, 54, 86])  # not bonded, so their distances say nothing about units
THOMAS_FERMI = 20.92  # eV, times Z^(7/3)

FLOATS = NDArray[np.float64]


@dataclass(frozen=True)
class Evidence:
    """What was collected from converted records.

    Attributes
    ----------
    pairs
        Distance of the two frames (root mean square, Angstrom), work done by the mean force (eV, the energy that
        should be lost), energy difference (eV), number of atoms; [P, 4].
    bonds
        Kind (200 Z1 + Z2), length in sums of covalent radii, force along it (eV/Angstrom, positive apart; NaN where
        forces are not known); [B, 3].
    records, unbound
        Records looked at, and those with an energy below what the Thomas-Fermi model allows.
    force_square, force_count
        Sum of squared force components, and their number.
    """

    pairs: FLOATS
    bonds: FLOATS
    records: int = 0
    unbound: int = 0
    force_square: float = 0.0
    force_count: int = 0

    @staticmethod
    def merge(parts: list[Evidence]) -> Evidence:
        """Join the evidence of several shards; the nearest pairs and an even choice of bonds are kept."""
        pairs = np.concatenate([np.zeros((0, 4)), *(p.pairs for p in parts)])
        bonds = np.concatenate([np.zeros((0, 3)), *(p.bonds for p in parts)])
        return Evidence(
            pairs[np.argsort(pairs[:, 0], kind="stable")[:MAX_PAIRS]],
            bonds[:: max(1, -(-len(bonds) // (4 * MAX_BONDS)))],
            sum(p.records for p in parts),
            sum(p.unbound for p in parts),
            sum(p.force_square for p in parts),
            sum(p.force_count for p in parts),
        )


@dataclass
class _LabelledFrame:
    pos: FLOATS
    forces: FLOATS
    energy: float
    cell: FLOATS


@dataclass
class Collector:
    """Takes converted records one by one in the order they are read, and keeps bounded evidence of them."""

    _n_seen: int = 0
    _n_checked: int = 0
    _unbound: int = 0
    _square: float = 0.0
    _count: int = 0
    _frames: dict[tuple[str | None, bytes], deque[_LabelledFrame]] = field(default_factory=dict)
    _pairs: list[tuple[float, float, float, float]] = field(default_factory=list)
    _bonds: list[FLOATS] = field(default_factory=list)
    _n_bonds: int = 0

    def add(self, record: Record) -> None:
        """Look at a record that was found usable."""
        at, self._n_seen = self._n_seen, self._n_seen + 1
        if (at >= FIRST and at % EVERY >= THEN) or record.energy is None:
            return
        self._n_checked += 1
        if record.forces is not None:
            self._square += float((record.forces**2).sum())
            self._count += record.forces.size
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
                self._pairs.append((*found, float(len(record.numbers))))
        frames.append(here)
        if len(self._pairs) >= 2 * MAX_PAIRS:
            self._pairs = sorted(self._pairs)[:MAX_PAIRS]

    def evidence(self) -> Evidence:
        """Return what was collected."""
        own = Evidence(
            np.array(self._pairs, dtype=np.float64).reshape(-1, 4),
            np.concatenate([np.zeros((0, 3)), *self._bonds]),
            self._n_checked,
            self._unbound,
            self._square,
            self._count,
        )
        return Evidence.merge([own])


def _nearest(
    here: _LabelledFrame, others: list[_LabelledFrame], pbc: NDArray[np.bool_]
) -> tuple[float, float, float] | None:
    """Return distance, work and energy difference to the nearest of ``others``; None when all are the same frame."""
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
    work = float(-((forces[k] + here.forces) / 2.0 * moved[k]).sum())
    return float(distance[k]), work, here.energy - others[k].energy


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


@dataclass(frozen=True)
class Finding:
    """One look at the labels: its name, whether they pass it (None: the data do not allow it), and what was seen."""

    check: str
    passed: bool | None
    sentence: str
    values: dict[str, float]


# Energy change over work. What makes it so, as a reader of the warning would put it.
_RATIOS = (
    (27.2114, "as if forces were in Ha, or energies were eV already where Ha was said"),
    (23.0605, "as if energies were in kcal/mol and forces in eV"),
    (96.4853, "as if energies were in kJ/mol and forces in eV"),
    (1.8897, "as if forces were per Bohr and positions in Angstrom"),
    (51.4221, "as if forces were in Ha/Bohr and energies in eV"),
    (627.509, "as if energies were in kcal/mol and forces in Ha"),
    (2625.50, "as if energies were in kJ/mol and forces in Ha"),
    (4.184, "as if energies were in kJ/mol and forces in kcal/mol"),
    (1 / 27.2114, "as if energies were in Ha and forces in eV"),
    (1 / 23.0605, "as if forces were in kcal/mol and energies in eV"),
    (1 / 96.4853, "as if forces were in kJ/mol and energies in eV"),
    (1 / 1.8897, "as if positions were in Bohr and forces per Angstrom"),
    (1 / 51.4221, "as if energies were in Ha and forces converted from Ha/Bohr"),
    (1 / 627.509, "as if forces were in kcal/mol and energies in Ha"),
    (1 / 2625.50, "as if forces were in kJ/mol and energies in Ha"),
    (1 / 4.184, "as if energies were in kcal/mol and forces in kJ/mol"),
)
_NEAR = float(np.log(1.3))


def findings(evidence: Evidence, energy_std: float | None = None) -> tuple[Finding, ...]:
    """Return what the evidence says; ``energy_std`` is the scatter of energies after references (eV/atom), if known."""
    return (_work(evidence), _bond_forces(evidence), _lengths(evidence), _sizes(evidence, energy_std))


def warnings(found: tuple[Finding, ...]) -> tuple[str, ...]:
    """Return the sentences of what did not pass."""
    return tuple(f.sentence for f in found if f.passed is False)


def slope(pairs: FLOATS) -> tuple[float, float, float, int]:
    """Return the ratio of energy change to work, their correlation, the effective number of pairs, and their number.

    Both have errors, so the ratio is that of their root mean squares, with the sign of the correlation.
    """
    nearest = pairs[np.argsort(pairs[:, 0], kind="stable")[: max(20, len(pairs) // 4)]]
    weight = (nearest[:, 0] / nearest[:, 0].min()) ** -6.0
    work, change = nearest[:, 1], nearest[:, 2]
    xx, yy, xy = (float((weight * a * b).sum()) for a, b in ((work, work), (change, change), (work, change)))
    if not (xx > 0 and yy > 0):
        return 0.0, 0.0, 0.0, len(nearest)
    effective = float(weight.sum() ** 2 / (weight**2).sum())
    return float(np.sign(xy) * np.sqrt(yy / xx)), xy / float(np.sqrt(xx * yy)), effective, len(nearest)


def _work(evidence: Evidence) -> Finding:
    check = "energy change against work of the forces"
    if len(evidence.pairs) < MIN_PAIRS:
        return Finding(check, None, f"{len(evidence.pairs)} pairs of nearby frames: too few to compare.", {})
    ratio, correlation, effective, n = slope(evidence.pairs)
    values = {"slope": ratio, "correlation": correlation, "pairs": float(n)}
    measured = f"slope {ratio:.3g}, correlation {correlation:.2f}, {n} pairs of nearby frames"
    if abs(correlation) < 0.8 or effective < 5:
        return Finding(check, None, f"Frames are too far apart to compare ({measured}).", values)
    natoms = float(np.median(evidence.pairs[:, 3]))
    ratios = [(1.0, ""), *_RATIOS, *([(1 / natoms, "as if energies were per atom")] if natoms > 1.4 else [])]
    off = [abs(float(np.log(abs(ratio) / known))) for known, _ in ratios]
    sign = (
        " Their sign is turned: the label is a gradient; set force_sign: gradients (or undo it)." if ratio < 0 else ""
    )
    if off[0] <= _NEAR and off[0] == min(off):
        if not sign:
            return Finding(check, True, f"Energies and forces belong together ({measured}).", values)
        return Finding(check, False, f"Forces do not belong to the energies ({measured}).{sign}", values)
    likely = [meaning for (_, meaning), far in zip(ratios, off, strict=True) if far <= min(off) + 0.1 and far <= _NEAR]
    if not likely and abs(correlation) < 0.95 and not sign:
        return Finding(check, None, f"Energies and forces agree in direction only ({measured}).", values)
    why = " or ".join(m for m in likely if m) or "no pair of known units explains it"
    text = f"Energies change {abs(ratio):.3g} times as much as the forces say ({measured}): {why}.{sign}"
    return Finding(check, False, text + " Check energy_unit, length_unit and energy_per_atom.", values)


def _ranks(values: FLOATS) -> FLOATS:
    """Return the rank of each value; scipy.stats would take longer to import than a small shard to read."""
    ranks = np.empty(len(values))
    ranks[np.argsort(values, kind="stable")] = np.arange(len(values))
    return ranks


def _bond_forces(evidence: Evidence) -> Finding:
    check = "forces along bonds"
    length, apart = [], []
    bonds = evidence.bonds[~np.isnan(evidence.bonds[:, 2])]
    for kind in np.unique(bonds[:, 0]):
        of_kind = bonds[bonds[:, 0] == kind]
        if len(of_kind) >= 20:
            length.append(of_kind[:, 1] - np.median(of_kind[:, 1]))
            apart.append(of_kind[:, 2] - np.median(of_kind[:, 2]))
    n = sum(map(len, length))
    if n < MIN_BONDS or not np.ptp(np.concatenate(apart)) > 0 or not np.ptp(np.concatenate(length)) > 0:
        return Finding(check, None, f"{n} bonds: too few to compare.", {})
    rank = float(np.corrcoef(_ranks(np.concatenate(length)), _ranks(np.concatenate(apart)))[0, 1])
    measured, values = (
        f"rank correlation {rank:.2f} of length and force, {n} bonds",
        {"rank": float(rank), "bonds": float(n)},
    )
    if abs(rank) < 0.5:
        return Finding(check, None, f"Bonds are too near their rest, or too mixed, to tell ({measured}).", values)
    if rank < 0:
        return Finding(check, True, f"Long bonds are drawn together, short ones apart ({measured}).", values)
    text = f"Long bonds are driven further apart ({measured}): the sign of the forces is turned; "
    return Finding(check, False, text + "set force_sign: gradients (or undo it).", values)


def _lengths(evidence: Evidence) -> Finding:
    check = "distances of neighbours"
    if len(evidence.bonds) < 50:
        return Finding(check, None, f"{len(evidence.bonds)} neighbours: too few to compare.", {})
    middle = float(np.median(evidence.bonds[:, 1]))
    measured, values = f"{middle:.2f} sums of covalent radii, median", {"median": middle}
    if 0.72 < middle < 1.45:
        return Finding(check, True, f"Neighbours are as far apart as bonds are ({measured}).", values)
    why = "as if positions were in Bohr" if middle >= 1.45 else "as if positions in Angstrom were called Bohr"
    return Finding(check, False, f"Nearest neighbours are {measured}, {why}. Check length_unit.", values)


def _sizes(evidence: Evidence, energy_std: float | None) -> Finding:
    check = "sizes of energies and forces"
    if not evidence.records:
        return Finding(check, None, "No record to look at.", {})
    rms = float(np.sqrt(evidence.force_square / max(1, evidence.force_count)))
    values = {"force_rms": rms, "too_low": float(evidence.unbound)}
    complaints = []
    if evidence.unbound:
        complaints.append(
            f"{evidence.unbound} of {evidence.records} energies are lower than the electrons of their atoms allow: "
            "check energy_unit and energy_per_atom"
        )
    if rms > 20.0:
        complaints.append(
            f"forces are {rms:.3g} eV/Angstrom in root mean square, more than any usual data: check the units"
        )
    if energy_std is not None:
        values["energy_std"] = energy_std
        if energy_std > 5.0:
            complaints.append(
                f"energies scatter by {energy_std:.3g} eV/atom after the references of the elements: "
                "check energy_unit and energy_per_atom"
            )
    if complaints:
        text = "; ".join(complaints)
        return Finding(check, False, text[0].upper() + text[1:] + ".", values)
    measured = (
        f"Forces are {rms:.3g} eV/Angstrom in root mean square" if evidence.force_count else "There are no forces"
    )
    return Finding(check, True, f"{measured}; nothing is out of range.", values)
