"""Detects records whose energy has another unit than the rest of their source, e.g. Hartree among eV.

The fit of the references of elements is robust against few wrong records: least absolute deviations, by iteratively
reweighted least squares (E. J. Schlossmacher, J. Am. Stat. Assoc. 68, 857 (1973)). A record has another unit when its
energy is far from the references, and near to them after conversion from that unit. The scatter of the source defines
far and near. If the scatter is not small compared to the energies, as with energies of atomisation, there is no test,
since an unusual geometry could look the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gfm_pipeline.apps.ingest.checks.filters import ENERGY_IN_EV
from gfm_pipeline.core.contracts.data import EnergyUnit

SAMPLE = 50_000  # number of records in the fit of references
AT_LEAST = 20  # smallest number of records for a meaningful fit
PASSES = 30
NEAR, FAR = 6.0, 18.0  # in robust standard deviations of the source
LEAST = 0.02  # eV/atom; smallest scatter, since labels are rounded
CLEAR = 10.0  # smallest ratio of energies (per atom) to the limit of near for a test

FLOATS = NDArray[np.float64]


@dataclass(frozen=True)
class UnitTest:
    """The distribution of a source's energies in one unit.

    Parameters
    ----------
    references
        Energy of each element [S], eV.
    centre, scatter
        Median and robust standard deviation of energies minus references, eV/atom.
    unit
        Of the source, as declared.
    """

    references: FLOATS
    centre: float
    scatter: float
    unit: EnergyUnit

    @classmethod
    def fit(cls, counts: FLOATS, energy: FLOATS, unit: EnergyUnit) -> UnitTest | None:
        """Return the test for a source; None if it would not be reliable.

        Parameters
        ----------
        counts
            Atoms of each element [M, S] of a random sample of the source.
        energy
            Their energies [M], eV.
        unit
            Of the source, as declared.
        """
        if len(energy) < AT_LEAST:
            return None
        n = counts.sum(axis=1)
        rows, target = counts / n[:, None], energy / n
        weights = np.ones(len(energy))
        for _ in range(PASSES):
            root = np.sqrt(weights)
            references = np.linalg.lstsq(rows * root[:, None], target * root, rcond=None)[0]
            off = np.abs(target - rows @ references)
            weights = 1.0 / np.maximum(off, 1e-6 * max(1e-12, float(np.median(np.abs(target)))))
        rest = target - rows @ references
        centre = float(np.median(rest))
        scatter = max(LEAST, 1.4826 * float(np.median(np.abs(rest - centre))))
        if float(np.median(np.abs(target))) < CLEAR * NEAR * scatter:
            return None
        return cls(references, centre, scatter, unit)

    def units(self, counts: FLOATS, energy: FLOATS) -> list[EnergyUnit | None]:
        """Return the unit of each record if it differs from the declared one, else None.

        Parameters
        ----------
        counts, energy
            As for `fit`, of any records of the source.
        """
        n = counts.sum(axis=1)
        expected = counts @ self.references / n + self.centre
        found: list[EnergyUnit | None] = [None] * len(energy)
        suspect = np.flatnonzero(np.abs(energy / n - expected) > FAR * self.scatter)
        for other in EnergyUnit:
            factor = ENERGY_IN_EV[other] / ENERGY_IN_EV[self.unit]
            fits = np.abs(factor * energy[suspect] / n[suspect] - expected[suspect]) < NEAR * self.scatter
            for at in suspect[fits].tolist() if other is not self.unit else ():
                found[at] = other
        return found


def unit_sentence(other: str, unit: EnergyUnit) -> str:
    """Return the reason to set such a record aside."""
    return f"mixed units: the energy fits the rest of the source in {other}, not in {unit}"
