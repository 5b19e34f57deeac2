"""Candidates before the first results: a Latin hypercube with an equal share for every algorithm."""

from __future__ import annotations

import numpy as np

from gfm_pipeline.search.encoding import Encoding, new_rows, row_keys

ENUMERATED = 100_000  # settings: smaller spaces are listed to find untried settings
DRAWS = 20  # rounds of draws without new settings before a large space counts as exhausted


def balanced_design(
    encoding: Encoding, n: int, tried: np.ndarray, rng: np.random.Generator, *, of_own: bool = False
) -> np.ndarray:
    """Return ``n`` new rows, stratified in every dimension, that balance the numbers of trials of the algorithms.

    ``of_own``: replace copies by other rows of the same algorithm, as long as it has some. Methods of recorded
    campaigns replace them by any rows, and must replay.
    """
    counts = np.bincount(encoding.algorithm(tried), minlength=len(encoding.space.algorithms))
    order = []
    for _ in range(n):
        order.append(int(np.argmin(counts)))
        counts[order[-1]] += 1
    algorithms, rows = np.array(order), np.empty((n, len(encoding.columns)))
    for algorithm in np.unique(algorithms):
        places = np.flatnonzero(algorithms == algorithm)
        rows[places] = hypercube(encoding, len(places), int(algorithm), rng)
    new = new_rows(rows, row_keys(tried))
    if of_own and len(new) < n:
        lacking = np.bincount(algorithms, minlength=len(counts)) - np.bincount(
            encoding.algorithm(new), minlength=len(counts)
        )
        for algorithm in np.flatnonzero(lacking):
            known = row_keys(np.vstack([tried, new]))
            new = np.vstack([new, untried_of(encoding, int(lacking[algorithm]), int(algorithm), known, rng)])
    return new if len(new) == n else np.vstack([new, untried(encoding, n - len(new), np.vstack([tried, new]), rng)])


def hypercube(encoding: Encoding, n: int, algorithm: int, rng: np.random.Generator) -> np.ndarray:
    """Return a Latin hypercube (McKay et al. 1979) of ``n`` rows of one algorithm."""
    width = len(encoding.columns)
    strata = np.stack([rng.permutation(n) for _ in range(width)], axis=1)
    units = (strata + rng.random((n, width))) / n
    rows = encoding.of_algorithm(encoding.from_units(units, canonical=False), algorithm)
    bad = np.flatnonzero(~encoding.allowed(rows))
    if len(bad):
        rows[bad] = encoding.sample(len(bad), rng, np.full(len(bad), algorithm))
    return rows


def untried_of(encoding: Encoding, n: int, algorithm: int, known: list[bytes], rng: np.random.Generator) -> np.ndarray:
    """Return ``n`` rows of an algorithm whose keys are not ``known``, or fewer if there are no more."""
    if encoding.size is not None and encoding.size <= ENUMERATED:
        everything = encoding.enumerate()
        mine = everything[encoding.algorithm(everything) == algorithm]
        return new_rows(mine[rng.permutation(len(mine))], known)[:n]
    drawn = encoding.sample(DRAWS * n, rng, np.full(DRAWS * n, algorithm))
    return new_rows(drawn, known)[:n]


def untried(encoding: Encoding, n: int, tried: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return ``n`` rows that are not in ``tried``; if all rows were tried, return the least tried ones.

    Equal settings train with different seeds, so a repetition still gives information.
    """
    known = row_keys(tried)
    found = np.empty((0, len(encoding.columns)))
    size = encoding.size
    if size is None or size > ENUMERATED:
        for _ in range(DRAWS):
            found = np.vstack([found, new_rows(encoding.sample(2 * n, rng), [*known, *row_keys(found)])])
            if len(found) >= n:
                return found[:n]
        return np.vstack([found, encoding.sample(n - len(found), rng)])
    everything = encoding.enumerate()
    everything = everything[rng.permutation(len(everything))]
    times = dict.fromkeys(row_keys(everything), 0)
    for key in known:
        times[key] = times.get(key, 0) + 1
    counts = np.array([times[key] for key in row_keys(everything)])
    chosen = []
    for _ in range(n):
        chosen.append(int(np.argmin(counts)))
        counts[chosen[-1]] += 1
    return everything[chosen]
