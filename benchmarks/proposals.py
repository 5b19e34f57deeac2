"""How good proposals of candidates are, and how long they take: ours, random search, DeepHyper's own, and Optuna's.

Objectives are synthetic, so that their optimum (0) is known: eight mixed dimensions beside four algorithms with an
optimum each, of which one is the best; the same with hyperparameters of single algorithms; and the same with noise on
every result. None is a quadratic: a third of the dimensions is steep on one side, as learning rates are, a third has a
kink, a third saturates. Regret is that of the result that looks best, or the mean of the 16 that do, without its noise.

    python benchmarks/proposals.py quality --width 256 --waves 8     # a table of regrets
    python benchmarks/proposals.py quality --width 32 --waves 8 --methods batch-local-gp random deephyper optuna
    python benchmarks/proposals.py time                              # seconds of one question, on one core

`pip install gfm-pipeline[bench]` for Optuna.
"""

from __future__ import annotations

import argparse
import logging
import time
import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np

from gfm_pipeline.core.contracts.policies import PROPOSALS, default_choice, make_policy
from gfm_pipeline.search.encoding import Encoding, row_keys
from gfm_pipeline.search.proposer import Observation, ProposalMethod
from gfm_pipeline.search.space import Choice, Range, SearchSpace

ALGORITHMS = ("SchNet", "EGNN", "PaiNN", "PNA")
SHARED = {
    "algorithm": Choice(ALGORITHMS),
    "hidden": Choice((16, 32, 48, 64, 96, 128, 192, 256)),
    "layers": Range(1, 6, whole=True),
    "cutoff": Range(3.0, 8.0),
    "n_radial": Range(4, 32, whole=True),
    "learning_rate": Range(1e-5, 1e-1, log=True),
    "batch_size": Choice((4, 8, 16, 32, 64, 128)),
    "force_weight": Range(0.1, 100.0, log=True),
    "weight_decay": Range(1e-6, 1e-1, log=True),
}
OWN = {
    "PaiNN": {"hidden": Choice((8, 16, 24, 32, 48, 64))},
    "PNA": {"options.sharpness": Range(1.0, 8.0)},
    "EGNN": {"options.depth": Range(1, 4, whole=True)},
}
KINDS = {"mixed": ({}, 0.0), "conditional": (OWN, 0.0), "noisy": (OWN, 0.05)}


class Objective:
    """A function of candidates whose least value is 0; ``noise`` is the standard deviation of its results."""

    def __init__(self, own: dict[str, Any], noise: float, seed: int) -> None:
        self.encoding = Encoding(SearchSpace(SHARED, own))
        self.noise = noise
        rng = np.random.default_rng((seed, 77))
        width = len(self.encoding.columns)
        self._behind = rng.permutation([0.0, 0.1, 0.2, 0.35])
        self._best = self.encoding.units(self.encoding.sample(len(ALGORITHMS), rng, np.arange(len(ALGORITHMS))))
        self._weights = rng.uniform(0.4, 1.6, (len(ALGORITHMS), width))
        self._steep = rng.choice([-1, 1], (len(ALGORITHMS), width))
        self._noise = np.random.default_rng((seed, 78))
        names = [column.name for column in self.encoding.columns]
        self._rate, self._batch = names.index("learning_rate"), names.index("batch_size")
        self._cutoff, self._name = names.index("cutoff"), names.index("algorithm")

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Return the regret of each row, shape (rows,)."""
        algorithm = self.encoding.algorithm(rows)
        away = np.where(self.encoding.active(rows), self.encoding.units(rows) - self._best[algorithm], 0.0)
        away[:, self._name] = 0.0
        away[:, self._rate] -= 0.4 * away[:, self._batch]  # larger batches want larger rates
        steep = away * self._steep[algorithm]
        shapes = [
            0.35 * (np.exp(3 * steep) - 3 * steep - 1) / 3,
            np.abs(away) ** 1.5,
            0.5 * (1 - np.exp(-((away / 0.35) ** 2))),
        ]
        kinds = np.arange(away.shape[1])[None, :] % len(shapes)
        ripples = 0.04 * (1 - np.cos(4 * np.pi * away[:, self._cutoff]))
        return self._behind[algorithm] + (self._weights[algorithm] * np.choose(kinds, shapes)).sum(axis=1) + ripples

    def results(self, rows: np.ndarray) -> np.ndarray:
        """Return what a training would say of each row."""
        return self(rows) + self.noise * self._noise.normal(size=len(rows))


Ask = Callable[[Encoding, np.ndarray, np.ndarray, int, int], np.ndarray]  # encoding, rows, results, width, seed


def policy(name: str) -> Ask:
    """Return a proposal method of the product."""
    method = make_policy(PROPOSALS, default_choice(PROPOSALS, name), ProposalMethod)

    def ask(encoding: Encoding, rows: np.ndarray, results: np.ndarray, n: int, seed: int) -> np.ndarray:
        settings = encoding.decode(rows)
        told = [Observation(s, float(y)) for s, y in zip(settings, results, strict=True)]
        return encoding.encode(method.propose(encoding.space, told, settings, n, seed))

    return ask


def deephyper_wide(encoding: Encoding, rows: np.ndarray, results: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Ask DeepHyper for a whole batch by its strategy for many workers, ``qUCBd``, with the settings that serve it."""
    from deephyper.hpo import CBO, HpProblem

    problem = HpProblem(seed=seed)
    names = list(encoding.space.columns())
    for name, column in zip(names, encoding.columns, strict=True):
        d = column.dimension
        if isinstance(d, Choice):
            problem.add_hyperparameter(list(d.values), name)
        else:
            bounds = (int(d.low), int(d.high)) if d.whole else (d.low, d.high)
            problem.add_hyperparameter((*bounds, "log-uniform") if d.log else bounds, name)
    rng = np.random.default_rng(seed)

    def flat(rows: np.ndarray) -> list[dict[str, Any]]:
        values = [column.decode(rows[:, c]) for c, column in enumerate(encoding.columns)]
        return [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)]

    problem.set_sampling_fn(lambda size: flat(encoding.sample(size, rng)))
    search = CBO(
        problem,
        random_state=seed,
        checkpoint_history_to_csv=False,
        surrogate_model="ET",
        surrogate_model_kwargs={"min_impurity_decrease": 0.0, "n_estimators": 25, "n_jobs": 1},
        acq_func="UCBd",
        acq_func_kwargs={"kappa": 1.96, "scheduler": {"type": "constant"}},
        acq_optimizer="sampling",
        acq_optimizer_kwargs={"max_total_failures": -1, "n_points": max(10_000, n)},
        multi_point_strategy="qUCBd",
        n_initial_points=1,
    )
    search.tell([(row, -float(y)) for row, y in zip(flat(rows), results, strict=True)])
    asked = search.ask(n)
    codes = [column.encode([row[name] for row in asked]) for name, column in zip(names, encoding.columns, strict=True)]
    return encoding.canonical(np.stack([np.array(code) for code in codes], axis=1))


def optuna_tpe(encoding: Encoding, rows: np.ndarray, results: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Ask Optuna's TPE for ``n`` trials at a time, with its constant liar, told all results anew."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    names = list(encoding.space.columns())
    shown: dict[str, Any] = {}
    for name, column in zip(names, encoding.columns, strict=True):
        d = column.dimension
        if isinstance(d, Choice) and column.is_name:
            shown[name] = optuna.distributions.CategoricalDistribution(d.values)
        elif isinstance(d, Choice):
            shown[name] = optuna.distributions.IntDistribution(0, len(d.values) - 1)
        elif d.whole:
            shown[name] = optuna.distributions.IntDistribution(int(d.low), int(d.high), log=d.log)
        else:
            shown[name] = optuna.distributions.FloatDistribution(d.low, d.high, log=d.log)

    def as_shown(row: np.ndarray) -> dict[str, Any]:
        found = {}
        for c, (name, column) in enumerate(zip(names, encoding.columns, strict=True)):
            plain = column.decode(row[[c]])[0]
            found[name] = int(row[c]) if isinstance(column.dimension, Choice) and not column.is_name else plain
        return found

    sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True, multivariate=True, n_startup_trials=1)
    study = optuna.create_study(sampler=sampler)
    for row, y in zip(rows, results, strict=True):
        study.add_trial(optuna.create_trial(params=as_shown(row), distributions=shown, value=float(y)))
    found = np.empty((n, len(names)))
    for i in range(n):
        params = study.ask(shown).params
        for c, (name, column) in enumerate(zip(names, encoding.columns, strict=True)):
            code = isinstance(column.dimension, Choice) and not column.is_name
            found[i, c] = params[name] if code else column.encode([params[name]])[0]
    return encoding.canonical(found)


METHODS: dict[str, Ask] = {
    "random": policy("random"),
    "batch-local-gp": policy("batch-local-gp"),
    "batch-gp": policy("batch-gp"),
    "batch-ucb": policy("batch-ucb"),
    "deephyper-qUCBd": deephyper_wide,
    "deephyper": policy("deephyper"),  # constant liars
    "optuna": optuna_tpe,
}


PEERS = {"deephyper-qUCBd": "deephyper", "deephyper": "deephyper", "optuna": "optuna"}  # packages of others


def regret(objective: Objective, ask: Ask, width: int, waves: int, seed: int) -> tuple[float, float, float, float]:
    """Return the regret of the best and of the best 16, the share of copies, and the seconds of all questions."""
    encoding = objective.encoding
    rows = encoding.sample(width, np.random.default_rng(seed))
    results, seconds = objective.results(rows), 0.0
    for wave in range(1, waves):
        begun = time.perf_counter()
        proposed = ask(encoding, rows, results, width, 1000 * seed + wave)
        seconds += time.perf_counter() - begun
        rows = np.vstack([rows, proposed])
        results = np.append(results, objective.results(proposed))
    best = objective(rows[np.argsort(results)[:16]])
    return float(best[0]), float(best.mean()), 1 - len(set(row_keys(rows))) / len(rows), seconds


def quality(width: int, waves: int, seeds: int, methods: Sequence[str]) -> None:
    """Print a table of mean regrets."""
    title = (
        f"{width} wide, {waves} waves, {seeds} seeds: regret of the best / of the best 16; copies; time of a question"
    )
    print(f"| {title} | {' | '.join(KINDS)} |\n|{'---|' * (1 + len(KINDS))}")
    for name in methods:
        cells: list[str] = []
        if name in PEERS and find_spec(PEERS[name]) is None:
            print(f"| {name} | {' | '.join(['not installed'] * len(KINDS))} |", flush=True)
            continue
        for own, noise in KINDS.values():
            found = [regret(Objective(own, noise, s), METHODS[name], width, waves, s) for s in range(seeds)]
            best, top, copies, seconds = np.mean(found, axis=0)
            cells.append(f"{best:.4f} / {top:.4f}; {copies:.0%}; {seconds / (waves - 1):.2f} s")
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def timing(width: int, told: Sequence[int]) -> None:
    """Print how long one question takes, all of it: from settings to settings."""
    objective = Objective(OWN, 0.05, 0)
    encoding, rng = objective.encoding, np.random.default_rng(0)
    method = make_policy(PROPOSALS, default_choice(PROPOSALS, "batch-local-gp"), ProposalMethod)
    method.propose(encoding.space, [Observation(encoding.decode(encoding.sample(1, rng))[0], 0.0)], [], 1, 0)  # imports
    for n in told:
        rows = encoding.sample(n, rng)
        settings = encoding.decode(rows)
        results = [Observation(s, float(y)) for s, y in zip(settings, objective.results(rows), strict=True)]
        begun, worked = time.perf_counter(), time.process_time()
        proposed = method.propose(encoding.space, results, settings, width, 1)
        seconds, worked = time.perf_counter() - begun, time.process_time() - worked
        distinct = len(set(row_keys(np.vstack([rows, encoding.encode(proposed)]))))
        copies = len(set(row_keys(rows))) + width - distinct
        print(
            f"{width:,} in one question at {n:,} told: {seconds:.2f} s ({worked:.2f} s of CPU), {copies} copies",
            flush=True,
        )


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["quality", "time"])
    parser.add_argument("--width", type=int)
    parser.add_argument("--waves", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--methods", nargs="+", choices=METHODS, default=["random", "batch-local-gp", "deephyper-qUCBd"]
    )
    parser.add_argument("--told", nargs="+", type=int, default=[1000, 10_000, 200_000])
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("deephyper").setLevel(logging.ERROR)
    if asked.what == "time":
        timing(asked.width or 8192, asked.told)
    else:
        quality(asked.width or 256, asked.waves, asked.seeds, asked.methods)


if __name__ == "__main__":
    main()
