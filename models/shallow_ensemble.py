"""Shallow ensembles: several last layers of energies on one trunk, as their deviations from the mean.

The mean is the energy that other parts of the model see; it has its own last layer. The deviations of K last layers
[G, K] learn to be as large as the error of the mean: they minimise the continuous ranked probability score of the K
energies (Gneiting and Raftery, J. Am. Stat. Assoc. 102, 359 (2007), section 4.2). Their loss changes neither the mean
nor the trunk, so a shallow ensemble costs no accuracy. Forces of the K last layers are the derivatives of their
energies, so their spread needs no loss of its own (Kellner and Ceriotti, MLST 5, 035006 (2024)).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from gfm_pipeline.core.contracts.targets import ENERGY, Origin, Target
from gfm_pipeline.models.batch import Batch
from gfm_pipeline.models.geometry import Geometry

DEVIATIONS = "energy deviations"  # [G, K], eV, among the values of a model with a shallow ensemble


def crps_gain(error: Tensor, deviations: Tensor) -> Tensor:
    """Return the score of K predictions less the score of their mean [G]; negative where the spread pays.

    Parameters
    ----------
    error
        Mean minus label [G].
    deviations
        Predictions minus mean [G, K], in the same unit.
    """
    far = (error.unsqueeze(1) + deviations).abs().mean(1)
    apart = (deviations.unsqueeze(2) - deviations.unsqueeze(1)).abs().mean((1, 2))
    return far - 0.5 * apart - error.abs()


def spreads(deviations: Tensor, geometry: Geometry, batch: Batch, derived: Sequence[Target]) -> dict[str, Tensor]:
    """Return the standard deviation over the K last layers, of energies and of the targets ``derived`` from them.

    Parameters
    ----------
    deviations
        Energies minus their mean [G, K], eV, with a graph to the geometry if there are derived targets.
    geometry, batch
        Those of the energies; the graph is kept.
    derived
        Targets that are derivatives of the energy.
    """
    freedom = deviations.shape[1] - 1
    found = {ENERGY.name: (deviations.detach().square().sum(1) / freedom).sqrt()}
    sums: dict[Origin, Tensor] = {}
    for energy in deviations.unbind(1) if derived else ():
        slopes = geometry.derivatives(energy.sum(), batch, create_graph=False, retain_graph=True)
        for origin, slope in slopes.items():
            sums[origin] = sums[origin] + slope.square() if origin in sums else slope.square()
    return found | {target.name: (sums[target.origin] / freedom).sqrt() for target in derived}
