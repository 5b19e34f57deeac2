"""How well the objective of a rung tells which candidates end best, and what stopping by it costs and loses.

    python benchmarks/rungs.py                                        the tables, from the recorded curves
    GFM_REAL_DATA=FOLDER python benchmarks/rungs.py --record FILE     trains the candidates (about 40 CPU-minutes)

``rungs.csv`` beside this file has the learning curves of 24 candidates on each of two datasets of density functional
theory, ethanol and acetylacetone: drawn at random from a search space, trained on 32,768 structures at a constant rate.
At each eighth of the budget, twice shortly before, and at four of the first 64ths, averaged weights were validated:
force error, energy error as the weights have it, and energy error once what is linear in composition was solved from
training structures. The old objective has the former energy error, the new one the latter; both are the mean of the
errors' ratios to those of a model that learned nothing. Six candidates were trained again with another seed, which
shows the noise of the objective.

Printed are rank correlations of objectives at parts of the budget with the new objective at the end; then, replayed on
random two thirds of the candidates by the policies that decide in campaigns, the share of the node-seconds that each
spends, and how much worse than the best candidate its choice ends; last, what the weight of the forces does to errors.
Tables are Markdown.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rungs_recorded import CHECKS, GRAPHS, LAST, PARTS, SECOND, read_rows, record
from scipy.stats import spearmanr

from gfm_pipeline.core.contracts.policies import STOPPING, PolicyChoice, make_policy
from gfm_pipeline.search.stopping import RungResults, StoppingPolicy

FILE = Path(__file__).with_suffix(".csv")
Floats = NDArray[np.float64]
NORMAL_MEDIAN = 0.6745  # of the absolute value of a normal variable of deviation 1


@dataclass(frozen=True)
class Curves:
    """The curves of one dataset: objectives [N, checks] by kind, and node-seconds so far [N, checks].

    ``again`` are the new objectives at the end of the first ones with another seed.
    """

    objectives: Mapping[str, Floats]
    seconds: Floats
    again: Floats

    @property
    def truth(self) -> Floats:
        """How candidates end: the new objective at the end [N]."""
        return self.objectives["new"][:, -1]

    def judged(self, kind: str, part: int) -> Floats:
        """Return what candidates are judged by at a 64th [N]: the last value, or the best of the last three."""
        name, _, rule = kind.partition(", ")
        last = [at for at, check in enumerate(CHECKS) if part - LAST < check <= part]
        values = self.objectives[name][:, last]
        return values.min(1) if rule == "best of three" else values[:, -1]

    def spent(self, part: int) -> Floats:
        """Return the node-seconds of candidates up to a 64th of the budget [N]."""
        return self.seconds[:, CHECKS.index(part)]


KINDS = ("old", "old, best of three", "new", "new, best of three", "forces alone")


def read_curves(place: Path) -> dict[str, Curves]:
    """Return the recorded curves by dataset."""
    found: dict[str, dict[str, list[dict[str, str]]]] = {}
    for row in read_rows(place):
        found.setdefault(row["dataset"], {}).setdefault(row["candidate"], []).append(row)
    curves = {}
    for name, by_label in found.items():
        curves[name] = _curves([rows for label, rows in by_label.items() if not label.endswith(SECOND)])
        if second := [rows for label, rows in by_label.items() if label.endswith(SECOND)]:
            curves[name] = replace(curves[name], again=_curves(second).truth)
    return curves


def _curves(rows: Sequence[Sequence[Mapping[str, str]]]) -> Curves:
    def column(name: str) -> Floats:
        return np.array([[float(row[name]) for row in curve] for curve in rows])

    forces, nothing = column("force_mae") / column("null_force_mae"), column("null_energy_mae")
    objectives = {
        "old": 0.5 * (forces + column("energy_mae") / nothing),
        "new": 0.5 * (forces + column("energy_mae_solved") / nothing),
        "forces alone": forces,
    }
    return Curves(objectives, column("seconds"), np.empty(0))


def named(part: int) -> str:
    """Return a 64th of the budget as a fraction."""
    return str(Fraction(part, PARTS))


SHOWN = (1, 2, 4, 8, 16, 24, 32, 48, 64)


def correlations(curves: Mapping[str, Curves]) -> Iterator[str]:
    """Yield the table of rank correlations with the end."""
    yield f"| dataset | objective | {' | '.join(map(named, SHOWN))} |"
    yield f"|---|---|{'---|' * len(SHOWN)}"
    for name, one in curves.items():
        for kind in KINDS:
            ranks = [spearmanr(one.judged(kind, part), one.truth).statistic for part in SHOWN]
            yield f"| {name} | {kind} | {' | '.join(f'{rank:.2f}' for rank in ranks)} |"


POLICIES: dict[str, tuple[str, dict[str, Any], float]] = {
    "none": ("none", {}, 2.0),
    "asha, one in 2": ("asha", {}, 2.0),
    "asha, one in 2.5": ("asha", {}, 2.5),
    "asha, one in 3": ("asha", {}, 3.0),
    "asha, one in 4": ("asha", {}, 4.0),
    "median": ("median", {}, 2.0),
    "fixed, one in 6": ("fixed", {"keep": 6.0}, 2.0),
    "extrapolation, one in 2": ("extrapolation", {}, 2.0),
    "extrapolation, one in 3": ("extrapolation", {}, 3.0),
    "gain, one in 2": ("gain", {}, 2.0),
    "gain, one in 3": ("gain", {}, 3.0),
}
RUNGS = ((8, 16, 32, 64), (8, 24, 64), (16, 32, 64), (4, 16, 64), (4, 8, 24, 64), (4, 8, 32, 64), (2, 8, 32, 64))
DRAWS = 400


def replayed(
    one: Curves, members: NDArray[np.int64], policy: Any, kind: str, rungs: tuple[int, ...], reduction: float
) -> tuple[float, float]:
    """Return how much worse than the best the choice of a policy ends, and the share of node-seconds that it takes."""
    judged = {r: one.judged(kind, part) for r, part in enumerate(rungs)}
    spent = {r: one.spent(part) for r, part in enumerate(rungs)}
    left, total, reached = [str(m) for m in members], 0.0, 0
    results: dict[int, dict[str, float | None]] = {}
    seconds: dict[int, dict[str, float]] = {}
    for rung in range(len(rungs)):
        before = spent[rung - 1] if rung else np.zeros_like(spent[0])
        results[rung] = {name: float(judged[rung][int(name)]) for name in left}
        seconds[rung] = {name: float(spent[rung][int(name)] - before[int(name)]) for name in left}
        total += sum(seconds[rung].values())
        reached = rung
        if rung == len(rungs) - 1:
            break
        graphs = tuple(part * GRAPHS // PARTS for part in rungs)
        view = RungResults(rung, graphs, results, seconds, tuple(left), frozenset(), reduction)
        promoted = policy.decide(view).promoted
        if not promoted:
            break
        left = list(promoted)
    chosen = min(left, key=lambda name: float(results[reached][name] or 0.0))
    best = float(one.truth[members].min())
    return float(one.truth[int(chosen)]) / best - 1.0, total / float(one.seconds[members, -1].sum())


def regrets(curves: Mapping[str, Curves]) -> Iterator[str]:
    """Yield the table of what policies lose and cost, over random two thirds of the candidates of all datasets."""
    shown = ("old", "new", "new, best of three", "forces alone")
    yield f"| rungs | policy | node-seconds | {' | '.join(f'regret, {kind}' for kind in shown)} |"
    yield f"|---|---|---|{'---|' * len(shown)}"
    for rungs in RUNGS:
        for label, (name, options, reduction) in POLICIES.items():
            policy = make_policy(STOPPING, PolicyChoice(name, options), StoppingPolicy)
            cells, cost = [], 0.0
            for kind in shown:
                found = []
                for one in curves.values():
                    chance = np.random.default_rng(1)
                    size = len(one.truth)
                    draws = [np.sort(chance.permutation(size)[: 2 * size // 3]) for _ in range(DRAWS)]
                    found += [replayed(one, members, policy, kind, rungs, reduction) for members in draws]
                regret, share = np.mean(found, axis=0)
                cells.append(f"{100 * regret:.1f} %")
                cost = share if kind == "new" else cost
            yield f"| {', '.join(map(named, rungs))} | {label} | {100 * cost:.0f} % | {' | '.join(cells)} |"


def noise(curves: Mapping[str, Curves]) -> Iterator[str]:
    """Yield how much the objective scatters: differences below this are noise."""
    for name, one in curves.items():
        last = one.objectives["new"][:, -LAST:]
        scatter = np.mean(last.std(1, ddof=1) / last.mean(1))
        yield f"The last {LAST} validations on {name} scatter by {scatter:.1%}."
        if (again := len(one.again)) > 1:
            ratios = np.abs(np.log(one.again / one.truth[:again]))
            # of one seed, and of a normal distribution: the median bears a candidate that a seed makes diverge
            deviation = np.median(ratios) / NORMAL_MEDIAN / np.sqrt(2.0)
            worst = np.exp(ratios.max()) - 1.0
            yield f"A seed changes the end of a candidate on {name} by {deviation:.1%}, at most by {worst:.0%}."


def weights(place: Path) -> Iterator[str]:
    """Yield what the weight of the forces does to errors at the end: slopes over its logarithm, other things equal."""
    rows = [row for row in read_rows(place) if row["settings"] and not row["candidate"].endswith(SECOND)]
    yield "| dataset | error | for ten times the weight of forces |"
    yield "|---|---|---|"
    for name in dict.fromkeys(row["dataset"] for row in rows):
        mine = [row for row in rows if row["dataset"] == name]
        settings = [dict(pair.split("=") for pair in row["settings"].split()) for row in mine]
        kinds = sorted({one["algorithm"] for one in settings})
        rate = np.log10([float(one["learning_rate"]) for one in settings])
        design = [[one["algorithm"] == kind for one in settings] for kind in kinds]
        design += [rate, rate**2, [one["batch_size"] == "8" for one in settings]]
        design += [[float(one["layers"]) for one in settings], np.log([float(one["hidden"]) for one in settings])]
        design += [np.log10([float(one["force_weight"]) for one in settings])]
        matrix = np.array(design, dtype=np.float64).T
        for error in ("force_mae", "energy_mae_solved", "energy_mae"):
            y = np.log([float(row[error]) for row in mine])
            slope, *_ = np.linalg.lstsq(matrix, y, rcond=None)
            left = y - matrix @ slope
            spread = np.sqrt(left @ left / max(1, len(y) - matrix.shape[1]) * np.linalg.pinv(matrix.T @ matrix)[-1, -1])
            yield f"| {name} | {error} | {np.exp(slope[-1]):.2f} times (± {100 * spread:.0f} %) |"


def main() -> None:
    """Print the tables, or record the curves first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", type=Path, metavar="FILE", help="train what FILE does not have, then read it")
    parser.add_argument("--curves", type=Path, default=FILE)
    asked = parser.parse_args()
    place = asked.record or asked.curves
    if asked.record is not None:
        if "GFM_REAL_DATA" not in os.environ:
            parser.error("Set GFM_REAL_DATA to the folder that has ethanol and acac.")
        record(Path(os.environ["GFM_REAL_DATA"]), place)
    curves = read_curves(place)
    for table in (correlations(curves), regrets(curves), noise(curves), weights(place)):
        print("\n".join(table), end="\n\n")


if __name__ == "__main__":
    main()
