"""How well the objective of a rung tells which candidates end best, and what stopping by it costs and loses.

    python benchmarks/rungs.py                                        the tables, from the recorded curves
    GFM_REAL_DATA=FOLDER python benchmarks/rungs.py --record FILE     trains the candidates (about 20 CPU-minutes)

``rungs.csv`` beside this file has the learning curves of 24 candidates on each of two datasets of density functional
theory, ethanol and acetylacetone: drawn at random from a search space, trained to the end at a constant rate. At each
eighth of the budget, and twice shortly before, averaged weights were validated: force error, energy error as the
weights have it, and energy error once what is linear in composition was solved from training structures. The old
objective has the former energy error, the new one the latter; both are the mean of the errors' ratios to those of a
model that learned nothing.

Printed are rank correlations of objectives at each eighth with the new objective at the end; then, replayed on random
two thirds of the candidates by the policies that decide in campaigns, the share of the node-seconds that each spends,
and how much worse than the best candidate its choice ends; last, what the weight of the forces does to errors. Tables
are Markdown.
"""

from __future__ import annotations

import argparse
import csv
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from gfm_pipeline.core.contracts.policies import STOPPING, PolicyChoice, make_policy
from gfm_pipeline.search.stopping import RungResults, StoppingPolicy

FILE = Path(__file__).with_suffix(".csv")
SETS = {"ethanol": "ethanol/train.xyz", "acac": "acac/train_300K.xyz"}
CANDIDATES, GRAPHS, EIGHTHS = 24, 8192, 8
BEFORE = (2, 1, 0)  # 64ths of the budget before an eighth where averaged weights are validated too
VALIDATED = 100
COLUMNS = (
    "dataset", "candidate", "settings", "graphs", "seconds",
    "force_mae", "energy_mae", "energy_mae_solved", "null_force_mae", "null_energy_mae",
)  # fmt: skip
Floats = NDArray[np.float64]


def candidate(number: int) -> dict[str, Any]:
    """Return the settings of a candidate: the same ones for every dataset."""
    chance = np.random.default_rng((2026, number))
    algorithm = ("SchNet", "EGNN", "PaiNN", "PNA")[number % 4]
    widths = (16, 24, 32) if algorithm == "PaiNN" else (32, 48, 64)
    return {
        "algorithm": algorithm,
        "hidden": int(chance.choice(widths)),
        "layers": int(chance.integers(2, 4)),
        "cutoff": 4.5,
        "learning_rate": round(float(10 ** chance.uniform(-3.0, -2.0)), 6),
        "batch_size": int(chance.choice([8, 16])),
        "force_weight": round(float(10 ** chance.uniform(-0.5, 1.0)), 4),
    }


def record(data: Path, place: Path) -> None:
    """Train every candidate that is not in the file yet, and add its curve."""
    import torch
    from against_hydragnn import ingest

    torch.set_num_threads(1)
    done = {(row["dataset"], row["candidate"]) for row in _rows(place)} if place.exists() else set()
    with TemporaryDirectory() as folder:
        datasets = {}
        for name, file in SETS.items():
            (Path(folder) / name).mkdir()
            datasets[name] = ingest(Path(folder) / name, [str(data / file)])
        for number in range(CANDIDATES):
            for name, dataset in datasets.items():
                if (name, str(number)) not in done:
                    rows = list(_curve(Path(folder), name, dataset.path, number))
                    _append(place, rows)
                    print(name, number, rows[-1]["seconds"], rows[-1]["force_mae"], flush=True)


def _append(place: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    new = not place.exists()
    with place.open("a", newline="") as file:
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if new:
            table.writeheader()
        table.writerows(rows)


def _rows(place: Path) -> list[dict[str, str]]:
    with place.open(newline="") as file:
        return list(csv.DictReader(file))


def _curve(work: Path, name: str, dataset: Path, number: int) -> Iterator[dict[str, Any]]:
    """Train one candidate and yield its validations; ``seconds`` are processor time of the steps alone."""
    from gfm_pipeline.apps.train.setup import prepare
    from gfm_pipeline.core.contracts.training import DatasetRef, TrainSpec, settings_of

    settings = candidate(number)
    model, optimiser = settings_of(settings)
    ref = DatasetRef("b", str(dataset))
    spec = TrainSpec("t", model, optimiser, (ref,), 7 + number, str(work / "out"), GRAPHS, validation_limit=VALIDATED)
    trainer = prepare(spec)
    checks = sorted((8 * k - before) * GRAPHS // (8 * EIGHTHS) for k in range(1, EIGHTHS + 1) for before in BEFORE)
    seconds = 0.0
    for graphs in checks:
        begun = time.process_time()
        while trainer.state.graphs < graphs:
            trainer.step()
        seconds += time.process_time() - begun
        found = trainer.validate(VALIDATED).errors["b"]
        measured = {
            "seconds": seconds,
            "force_mae": found.force_mae,
            "energy_mae": _unsolved(trainer),
            "energy_mae_solved": found.energy_mae,
            "null_force_mae": found.null_force_mae,
            "null_energy_mae": found.null_energy_mae,
        }
        last = graphs == checks[-1]
        yield {
            "dataset": name,
            "candidate": number,
            "settings": " ".join(f"{k}={v}" for k, v in settings.items()) if last else "",
            "graphs": graphs,
        } | {key: f"{value:.4g}" for key, value in measured.items()}
    trainer.close()


def _unsolved(trainer: Any) -> float:
    """Return the error of energies per atom as the averaged weights have them, without what was solved."""
    from gfm_pipeline.apps.dataset import collate
    from gfm_pipeline.apps.train.validate import subset
    from gfm_pipeline.core.contracts.targets import ENERGY

    model, (table,) = trainer.average, trainer.splits.validation.values()
    shift = model.shift(ENERGY).values
    kept = shift.clone()
    shift.zero_()
    graphs = subset(len(table), VALIDATED)
    batch = collate([table], np.zeros_like(graphs), graphs)
    error = (model.head_values(batch)["energy"] - batch.labels["energy"]) / batch.natoms
    shift.copy_(kept)
    return float(error.abs().mean())


@dataclass(frozen=True)
class Curves:
    """The curves of one dataset: objectives [N, checks] by kind, and node-seconds so far [N, checks]."""

    objectives: Mapping[str, Floats]
    seconds: Floats

    @property
    def truth(self) -> Floats:
        """How candidates end: the new objective at the end [N]."""
        return self.objectives["new"][:, -1]

    def judged(self, kind: str, eighth: int) -> Floats:
        """Return what candidates are judged by at an eighth [N]: the last value, or the best of the last three."""
        name, _, rule = kind.partition(", ")
        end = len(BEFORE) * eighth
        values = self.objectives[name]
        return values[:, end - len(BEFORE) : end].min(1) if rule == "best of three" else values[:, end - 1]


KINDS = ("old", "old, best of three", "new", "new, best of three", "forces alone")


def read_curves(place: Path) -> dict[str, Curves]:
    """Return the recorded curves by dataset."""
    found: dict[str, dict[str, list[dict[str, str]]]] = {}
    for row in _rows(place):
        found.setdefault(row["dataset"], {}).setdefault(row["candidate"], []).append(row)
    return {name: _curves(list(of_candidates.values())) for name, of_candidates in found.items()}


def _curves(rows: Sequence[Sequence[Mapping[str, str]]]) -> Curves:
    def column(name: str) -> Floats:
        return np.array([[float(row[name]) for row in curve] for curve in rows])

    forces, nothing = column("force_mae") / column("null_force_mae"), column("null_energy_mae")
    objectives = {
        "old": 0.5 * (forces + column("energy_mae") / nothing),
        "new": 0.5 * (forces + column("energy_mae_solved") / nothing),
        "forces alone": forces,
    }
    return Curves(objectives, column("seconds"))


def correlations(curves: Mapping[str, Curves]) -> Iterator[str]:
    """Yield the table of rank correlations with the end."""
    yield f"| dataset | objective | {' | '.join(f'{k}/{EIGHTHS}' for k in range(1, EIGHTHS + 1))} |"
    yield f"|---|---|{'---|' * EIGHTHS}"
    for name, one in curves.items():
        for kind in KINDS:
            ranks = [spearmanr(one.judged(kind, k), one.truth).statistic for k in range(1, EIGHTHS + 1)]
            yield f"| {name} | {kind} | {' | '.join(f'{rank:.2f}' for rank in ranks)} |"


POLICIES: dict[str, tuple[str, dict[str, Any], float]] = {
    "none": ("none", {}, 2.0),
    "asha, one in 2": ("asha", {}, 2.0),
    "asha, one in 3": ("asha", {}, 3.0),
    "asha, one in 4": ("asha", {}, 4.0),
    "asha, one in 6": ("asha", {}, 6.0),
    "median": ("median", {}, 2.0),
    "fixed, one in 6": ("fixed", {"keep": 6.0}, 2.0),
    "extrapolation, one in 2": ("extrapolation", {}, 2.0),
    "extrapolation, one in 3": ("extrapolation", {}, 3.0),
    "gain, one in 2": ("gain", {}, 2.0),
    "gain, one in 3": ("gain", {}, 3.0),
}
RUNGS = {"1/8, 1/4, 1/2, 1": (1, 2, 4, 8), "1/8, 3/8, 1": (1, 3, 8), "1/4, 1/2, 1": (2, 4, 8)}
DRAWS = 400


def replayed(
    one: Curves, members: NDArray[np.int64], policy: Any, kind: str, rungs: tuple[int, ...], reduction: float
) -> tuple[float, float]:
    """Return how much worse than the best the choice of a policy ends, and the share of node-seconds that it takes."""
    judged = {r: one.judged(kind, eighth) for r, eighth in enumerate(rungs)}
    spent = {r: one.seconds[:, len(BEFORE) * eighth - 1] for r, eighth in enumerate(rungs)}
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
        graphs = tuple(eighth * GRAPHS // EIGHTHS for eighth in rungs)
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
    for title, rungs in RUNGS.items():
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
            yield f"| {title} | {label} | {100 * cost:.0f} % | {' | '.join(cells)} |"


def noise(curves: Mapping[str, Curves]) -> Iterator[str]:
    """Yield how much the last validations of a candidate scatter: differences below this are noise."""
    for name, one in curves.items():
        last = one.objectives["new"][:, -len(BEFORE) :]
        scatter = np.mean(last.std(1, ddof=1) / last.mean(1))
        yield f"The last {len(BEFORE)} validations on {name} scatter by {scatter:.1%}."


def weights(place: Path) -> Iterator[str]:
    """Yield what the weight of the forces does to errors at the end: slopes over its logarithm, other things equal."""
    rows = [row for row in _rows(place) if row["settings"]]
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
