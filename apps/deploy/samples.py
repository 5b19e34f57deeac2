"""A random sample of labelled entries of each target, of fixed size, for figures of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from gfm_pipeline.apps.calibrate.metrics import calibration_curve
from gfm_pipeline.core.contracts.evaluation import figure_key
from gfm_pipeline.core.publish import storage_errors

MOST = 3000  # entries per target
COLUMNS = ("label", "mean", "spread", "interval")
Floats = NDArray[np.float64]


@dataclass
class EntrySample:
    """A uniform sample of all entries added so far: those with the smallest random numbers. Equal for equal input."""

    most: int = MOST
    _random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    _kept: dict[str, Floats] = field(default_factory=dict)  # target -> random number and columns [n, 5]

    def add(self, target: str, label: Floats, mean: Floats, spread: Floats, interval: Floats | None) -> None:
        """Add entries [n] of a target; without intervals, these are not a number."""
        bound = np.full(label.shape, np.nan) if interval is None else interval
        rows = np.column_stack([self._random.random(label.size), *(np.ravel(x) for x in (label, mean, spread, bound))])
        before = self._kept.get(target)
        rows = rows if before is None else np.concatenate([before, rows])
        if len(rows) > self.most:
            rows = rows[np.argpartition(rows[:, 0], self.most)[: self.most]]
        self._kept[target] = rows

    def figures(self, dataset: str, level: float) -> dict[str, Floats]:
        """Return the arrays of the figures of an evaluation (`core.contracts.evaluation.figure_key`).

        The stated deviation of an entry is that of the normal distribution whose central share ``level`` is its
        interval.
        """
        found: dict[str, Floats] = {}
        for target, rows in self._kept.items():
            _, label, mean, spread, interval = rows.T
            deviation = interval / ndtri(0.5 * (1.0 + level))
            expected, raw = calibration_curve(mean - label, spread)
            fields = {"label": label, "mean": mean, "spread": spread, "curve_expected": expected, "curve_raw": raw}
            if np.isfinite(deviation).all():
                fields |= {"deviation": deviation, "curve_calibrated": calibration_curve(mean - label, deviation)[1]}
            found |= {figure_key(dataset, target, name): values for name, values in fields.items()}
        return found

    def write(self, path: Path, dataset: str, level: float) -> None:
        """Write the arrays of the figures."""
        with storage_errors(path):
            np.savez(path, **self.figures(dataset, level))  # type: ignore[arg-type]
