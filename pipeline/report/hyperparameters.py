"""Hyperparameters of a search as numbers, and their importance for the objective."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gfm_pipeline.report.tables.candidates import candidate_settings, is_number, short_names
from gfm_pipeline.report.text import plain
from gfm_pipeline.report.view import CandidateView

FEWEST = 16  # candidates for importances
MOST = 600  # candidates that importances are computed from
FOLDS, TREES, REPEATS = 5, 50, 3
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class SearchAxis:
    """One hyperparameter in which candidates differ: its name, and its value for each [n] (None: it has none)."""

    name: str
    values: tuple[Any, ...]

    @cached_property
    def numeric(self) -> bool:
        """Whether all values are numbers."""
        return all(is_number(value) for value in self.values)

    @cached_property
    def categories(self) -> tuple[str, ...]:
        """The different values as text, in order; for hyperparameters that are not numeric."""
        return tuple(sorted({plain(value) for value in self.values}))

    @cached_property
    def numbers(self) -> Floats:
        """Values, or positions among the categories [n]; NaN for a missing number."""
        if self.numeric:
            return np.array([np.nan if value is None else float(value) for value in self.values])
        return np.array([self.categories.index(plain(value)) for value in self.values], dtype=np.float64)

    @cached_property
    def logarithmic(self) -> bool:
        """Whether positive values span a factor of four or more, and are not few whole numbers."""
        known = self.numbers[np.isfinite(self.numbers)]
        return bool(self.numeric and len(set(known.tolist())) > 4 and known.min() > 0 and known.max() > 4 * known.min())


def hyperparameters(candidates: tuple[CandidateView, ...]) -> tuple[SearchAxis, ...]:
    """Return the hyperparameters in which candidates differ, in the order of their settings."""
    _, own = candidate_settings(candidates)
    keys = list(dict.fromkeys(key for one in own for key in one))
    names = short_names(keys)
    return tuple(SearchAxis(names[key], tuple(one.get(key) for one in own)) for key in keys)


@dataclass(frozen=True)
class Importances:
    """Permutation importances: how much less of the objective's variance is predicted without a hyperparameter.

    Attributes
    ----------
    names, values, errors
        Of each hyperparameter: the mean loss of R², and its standard deviation over folds; the largest first.
    r2
        R² of the predictions for candidates that the trees were not fitted to.
    n
        Candidates.
    """

    names: tuple[str, ...]
    values: tuple[float, ...]
    errors: tuple[float, ...]
    r2: float
    n: int


def importances(candidates: tuple[CandidateView, ...]) -> Importances | None:
    """Return the importances for the objective at the first rung, which all candidates reach.

    Extra trees, as of the search's surrogate, are fitted to the logarithm of the objective in five folds; a
    hyperparameter's values are permuted among the candidates that a fit has not seen (Breiman, Mach. Learn. 45, 5
    (2001)). None with fewer than `FEWEST` candidates; more than `MOST` are thinned evenly.
    """
    known = [c for c in candidates if c.rungs and c.rungs[0].objective is not None and c.rungs[0].objective > 0.0]
    known = known[:: -(-len(known) // MOST)] if known else []
    found = hyperparameters(tuple(known)) if len(known) >= FEWEST else ()
    if len(found) < 2:
        return None
    from sklearn.ensemble import ExtraTreesRegressor  # here: slow imports
    from sklearn.inspection import permutation_importance
    from sklearn.model_selection import KFold

    x = np.column_stack([np.nan_to_num(one.numbers, nan=-1.0) for one in found])
    y = np.log([c.rungs[0].objective or 1.0 for c in known])
    lost, predicted = [], np.zeros_like(y)
    for train, test in KFold(FOLDS, shuffle=True, random_state=0).split(x):
        model = ExtraTreesRegressor(TREES, random_state=0, min_samples_leaf=2, n_jobs=1).fit(x[train], y[train])
        predicted[test] = model.predict(x[test])
        scored = permutation_importance(
            model, x[test], y[test], scoring="neg_mean_squared_error", n_repeats=REPEATS, random_state=0, n_jobs=1
        )
        lost.append(scored.importances_mean)
    variance = float(np.var(y)) or 1.0
    mean, spread = np.mean(lost, axis=0) / variance, np.std(lost, axis=0) / variance
    order = np.argsort(-mean, kind="stable")
    r2 = 1.0 - float(np.mean((predicted - y) ** 2)) / variance
    return Importances(
        tuple(found[k].name for k in order),
        tuple(float(mean[k]) for k in order),
        tuple(float(spread[k]) for k in order),
        r2,
        len(known),
    )
