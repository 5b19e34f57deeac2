"""On errors that real energies of DFT have, a calibration is no worse than the spread it is fitted on."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.io import read

from gfm_pipeline.apps.calibrate import metrics
from gfm_pipeline.apps.calibrate.aggregate import mean_and_spread
from gfm_pipeline.apps.calibrate.calibrators import deviation, fit_calibration, halfwidth
from gfm_pipeline.apps.calibrate.entries import Entries
from gfm_pipeline.apps.dataset import neighbour_list

FOLDER = os.environ.get("GFM_REAL_DATA")
SETS = {
    "ethanol": ("ethanol/train.xyz", 5.0),
    "3bpa": ("3bpa/train_mixedT.xyz", 3.5),
    "copper": ("mlearn/Cu_train.xyz", 3.4),
}
MOST = 240


def lengths(atoms: Atoms, cutoff: float) -> np.ndarray:
    """Distances of all pairs within a cutoff."""
    src, dst, image = neighbour_list(atoms.positions, atoms.cell.array, atoms.pbc, cutoff)
    return np.linalg.norm(atoms.positions[dst] - atoms.positions[src] + image @ atoms.cell.array, axis=1)


def ensemble_of_ridges(name: str) -> tuple[np.ndarray, Entries]:
    """Errors per atom of five ridge regressions on histograms of distances, each trained on a bootstrap sample."""
    file, cutoff = SETS[name]
    frames = read(Path(str(FOLDER)) / file, ":")
    frames = frames[:: max(1, len(frames) // MOST)][:MOST]
    size = np.array([len(atoms) for atoms in frames], dtype=float)
    bins = np.linspace(0.8, cutoff, 25)
    distances = [lengths(atoms, cutoff) for atoms in frames]
    x = np.stack([np.histogram(d, bins)[0] / n for d, n in zip(distances, size, strict=True)])
    y = np.array([atoms.get_potential_energy() for atoms in frames]) / size
    y = y - np.median(y)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(frames))
    train, rest = order[: len(order) // 3], order[len(order) // 3 :]
    x = np.hstack([(x - x[train].mean(0)) / (x[train].std(0) + 1e-6), np.ones((len(x), 1))])
    members = []
    for _ in range(5):
        drawn = rng.choice(train, len(train))
        weights = np.linalg.solve(x[drawn].T @ x[drawn] + 0.3 * np.eye(x.shape[1]), x[drawn].T @ y[drawn])
        members.append(x[rest] @ weights)
    mean, spread = mean_and_spread(np.stack(members))
    return mean - y[rest], Entries(spread, mean, size[rest])


@pytest.mark.skipif(FOLDER is None, reason="GFM_REAL_DATA is not set: real datasets are not at hand")
@pytest.mark.parametrize("name", SETS)
def test_calibrating_is_never_worse_on_real_energies(name: str) -> None:
    error, entries = ensemble_of_ridges(name)
    half = len(error) // 2
    before, after, covered = [], [], []
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(error))
        fit, judge = order[:half], order[half:]
        found = fit_calibration(error[fit], entries.take(fit), 0.9)
        fresh = entries.take(judge)
        before.append(metrics.miscalibration_area(error[judge], fresh.spread))
        after.append(metrics.miscalibration_area(error[judge], deviation(found, fresh)))
        covered.append(np.mean(np.abs(error[judge]) <= halfwidth(found, fresh)))
    noise = 0.5 / np.sqrt(half)  # of an area, from so many entries
    assert np.mean(after) <= np.mean(before) + noise
    assert np.mean(after) < 0.12
    assert np.mean(covered) == pytest.approx(0.9, abs=0.06)
