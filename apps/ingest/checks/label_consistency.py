"""Tests whether energies, forces and positions of a source are consistent, with evidence from the records.

There are three independent checks, each without result if the data do not allow it:

Work: between two nearby frames of one group, the energy changes by minus the mean force times the displacement
(trapezoidal rule; exact for harmonic motion). The slope of one against the other is 1 for consistent labels, -1 if the
force label is a gradient, and a ratio of units if units are mixed. Molecules are superposed first (W. Kabsch, Acta
Cryst. A 32, 922 (1976)). The error of the rule grows with the third power of the displacement, so each pair is weighted
with its inverse sixth power. Pairs of strained cells check stresses in the same way. Repulsive walls make the mean
force of frames that are far apart too large: the slope falls below 1 although the labels are right. The work of half
the difference of the two forces bounds that error if the force changes monotonically. Labels are not blamed for a gap
that a part of this bound explains.

Bonds: the forces on a bond longer than others of its kind pull its atoms together. This needs single frames only.

Plausibility: nearest neighbours are about a sum of covalent radii apart; no atom is bound more strongly than its
electrons in the Thomas-Fermi model, -0.7687 Z^(7/3) Hartree.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gfm_pipeline.apps.ingest.checks.label_evidence import FLOATS, Evidence

MIN_PAIRS, MIN_BONDS = 15, 200
ALIKE = 8  # number of nearest pairs of strained cells with equal weight


@dataclass(frozen=True)
class Finding:
    """One check of the labels: its name, whether they pass (None: the data do not allow it), and its findings."""

    check: str
    passed: bool | None
    sentence: str
    values: dict[str, float]


# Energy change divided by work, and possible causes in words of the warning.
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
# The same, divided by the work of the stress.
_STRESS_RATIOS = (
    (1 / 160.21766, "as if the stress were in GPa where eV/Angstrom^3 was said"),
    (1 / 1602.1766, "as if the stress were in kbar where eV/Angstrom^3 was said"),
    (1 / 1602176.6, "as if the stress were in bar where eV/Angstrom^3 was said"),
    (183.63, "as if the stress were in Ha/Bohr^3 where eV/Angstrom^3 was said"),
    (160.21766, "as if the stress were in eV/Angstrom^3 where GPa was said"),
    (1602.1766, "as if the stress were in eV/Angstrom^3 where kbar was said"),
    (10.0, "as if the stress were in GPa where kbar was said"),
    (0.1, "as if the stress were in kbar where GPa was said"),
    (1e-3, "as if the stress were in bar where kbar was said"),
)
_NEAR = float(np.log(1.3))
# Largest error of the trapezoidal rule, in units of the work of half the difference of the forces: metals with atoms
# 0.3 Angstrom off their sites (EMT) have up to 0.27.
ANHARMONIC = 1 / 3
_FAR_SLOPE = 3.0  # a larger ratio, or a smaller one than its inverse, is not due to distance
FAR_APART = 0.5  # Angstrom between two frames, root mean square: beyond, the rule's error is not known at all
# Median distances of nearest neighbours in sums of covalent radii: Bohr taken for Angstrom give about 1.9, and Angstrom
# taken for Bohr 0.5 to 0.6. Atoms that are shaken by 0.5 Angstrom have a neighbour at 0.62.
_LONG, _SHORT = 1.45, 0.61


def findings(evidence: Evidence, energy_std: float | None = None) -> tuple[Finding, ...]:
    """Return the findings from the evidence; ``energy_std`` is the scatter of energies after references (eV/atom)."""
    stress = (_stress(evidence),) if len(evidence.strains) else ()
    lengths = _lengths(evidence)
    return (_work(evidence, lengths), *stress, _bond_forces(evidence), lengths, _sizes(evidence, energy_std))


def warnings(found: tuple[Finding, ...]) -> tuple[str, ...]:
    """Return the sentences of failed checks."""
    return tuple(f.sentence for f in found if f.passed is False)


@dataclass(frozen=True)
class _Slope:
    """Energy changes of pairs of frames against work.

    Attributes
    ----------
    ratio, correlation
        Both have errors, so the ratio is that of their root mean squares, with the sign of the correlation.
    effective, pairs
        Effective number of pairs, and their number.
    nearest
        Smallest distance of two frames (Angstrom).
    anharmonic
        Root mean square of energy change minus work, in units of the work of half the difference of the forces;
        infinite if that is unknown.
    """

    ratio: float
    correlation: float
    effective: float
    pairs: int
    anharmonic: float
    nearest: float = 0.0

    @property
    def due_to_distance(self) -> bool:
        """Whether the error of the trapezoidal rule can explain that the ratio differs from 1."""
        unsure = self.anharmonic <= ANHARMONIC or self.nearest > FAR_APART
        return unsure and 1 / _FAR_SLOPE < self.ratio < _FAR_SLOPE


def _slope(pairs: FLOATS) -> _Slope:
    """Compare energy changes (third column) with work (second column, and of half the difference: last column)."""
    nearest = pairs[np.argsort(pairs[:, 0], kind="stable")[: max(20, len(pairs) // 4)]]
    weight = (nearest[:, 0] / nearest[:, 0].min()) ** -6.0
    work, change = nearest[:, 1], nearest[:, 2]
    xx, yy, xy = (float((weight * a * b).sum()) for a, b in ((work, work), (change, change), (work, change)))
    if not (xx > 0 and yy > 0):
        return _Slope(0.0, 0.0, 0.0, len(nearest), np.inf)
    effective = float(weight.sum() ** 2 / (weight**2).sum())
    error, scale = (float((weight * a**2).sum()) for a in (change - work, nearest[:, -1]))
    anharmonic = float(np.sqrt(error / scale)) if scale > 0 else np.inf
    ratio, correlation = float(np.sign(xy) * np.sqrt(yy / xx)), xy / float(np.sqrt(xx * yy))
    return _Slope(ratio, correlation, effective, len(nearest), anharmonic, float(nearest[0, 0]))


def _work(evidence: Evidence, lengths: Finding) -> Finding:
    check = "energy change against work of the forces"
    if len(evidence.pairs) < MIN_PAIRS:
        return Finding(check, None, f"{len(evidence.pairs)} pairs of nearby frames: too few to compare.", {})
    line = _slope(evidence.pairs)
    ratio, correlation, n = line.ratio, line.correlation, line.pairs
    values = {"slope": ratio, "correlation": correlation, "pairs": float(n)}
    measured = f"slope {ratio:.3g}, correlation {correlation:.2f}, {n} pairs of nearby frames"
    if abs(correlation) < 0.8 or line.effective < 5:
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
    bohr = ratio < 1 and lengths.values.get("median", _LONG) < _LONG  # then positions are not in Bohr
    if line.due_to_distance and (not likely or bohr):
        return Finding(check, None, f"Frames are too far apart for units of energies and forces ({measured}).", values)
    if not likely and abs(correlation) < 0.95 and not sign:
        return Finding(check, None, f"Energies and forces agree in direction only ({measured}).", values)
    why = " or ".join(m for m in likely if m) or "no pair of known units explains it"
    text = f"Energies change {abs(ratio):.3g} times as much as the forces say ({measured}): {why}.{sign}"
    return Finding(check, False, text + " Check energy_unit, length_unit and energy_per_atom.", values)


def _stress(evidence: Evidence) -> Finding:
    check = "energy change against work of the stress"
    if len(evidence.strains) < MIN_PAIRS:
        return Finding(check, None, f"{len(evidence.strains)} pairs of strained cells: too few to compare.", {})
    pairs = evidence.strains.copy()
    pairs[:, 0] = np.maximum(pairs[:, 0], np.sort(pairs[:, 0])[ALIKE - 1])  # a single pair must not decide
    line = _slope(pairs)
    ratio, correlation, n = line.ratio, line.correlation, line.pairs
    values = {"slope": ratio, "correlation": correlation, "pairs": float(n)}
    measured = f"slope {ratio:.3g}, correlation {correlation:.2f}, {n} pairs of strained cells"
    if abs(correlation) < 0.8 or line.effective < 5:
        return Finding(check, None, f"Cells are too far apart to compare ({measured}).", values)
    volume = float(np.median(evidence.strains[:, 4]))
    virial = (1 / volume, "as if the label were a virial, which is a stress times the volume: a unit of energy says so")
    off = {why: abs(float(np.log(abs(ratio) / known))) for known, why in ((1.0, ""), virial, *_STRESS_RATIOS)}
    sign = (
        " It is positive under compression: write a minus sign before its unit, e.g. label_units: {stress: -kbar}."
        if ratio < 0
        else ""
    )
    if off[""] <= _NEAR:
        if not sign:
            return Finding(check, True, f"Energies and stresses belong together ({measured}).", values)
        return Finding(check, False, f"The sign of the stress is turned ({measured}).{sign}", values)
    likely = [why for why, far in off.items() if why and far <= min(off.values()) + 0.1 and far <= _NEAR]
    if not likely and line.due_to_distance:
        return Finding(check, None, f"Cells are too far apart for units of energies and stresses ({measured}).", values)
    if not likely and abs(correlation) < 0.95 and not sign:
        return Finding(check, None, f"Energies and stresses agree in direction only ({measured}).", values)
    why = " or ".join(likely) or "no pair of known units explains it"
    text = f"Energies change {abs(ratio):.3g} times as much as the stress says ({measured}): {why}.{sign}"
    return Finding(check, False, text + " Check label_units.", values)


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
    if _SHORT < middle < _LONG:
        return Finding(check, True, f"Neighbours are as far apart as bonds are ({measured}).", values)
    why = "as if positions were in Bohr" if middle >= _LONG else "as if positions in Angstrom were called Bohr"
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
