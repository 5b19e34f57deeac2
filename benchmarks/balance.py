"""How evenly a global batch is dealt to ranks, beside round robin in the same run.

    python benchmarks/balance.py [--ranks 1024] [--graphs 16 32] [--steps 10]

Batches are drawn at random from three sets of structures whose sizes and densities are like those of real data:
``molecules`` (3 to 40 atoms), ``crystals`` (1 to 200 atoms, 12 to 70 neighbours), and ``mix``, both and a tail of large
cells. Printed are the mean over steps of the largest rank's predicted cost divided by the mean of all ranks (atoms and
edges only: what a step costs whatever it holds would make every figure look better), and the milliseconds that one core
takes to deal a whole step, and to find the share of one rank, which is what a rank does. ``alone`` is the cost of the
largest graph over the mean: no dealing can be better than that where it is above one.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from numpy.typing import NDArray

from gfm_pipeline.apps.train.load_balance import assign, cost, partition

Indices = NDArray[np.int64]


def molecules(rng: np.random.Generator, n: int) -> tuple[Indices, Indices]:
    """Return atoms and edges of organic molecules: nearly everything is within the cutoff of everything."""
    natoms = rng.integers(3, 41, n)
    return natoms, (natoms * np.minimum(natoms - 1, rng.normal(18, 3, n)).clip(2)).astype(np.int64)


def crystals(rng: np.random.Generator, n: int) -> tuple[Indices, Indices]:
    """Return atoms and edges of inorganic cells: sizes log-normal (median 24), density by composition."""
    natoms = np.exp(rng.normal(np.log(24), 0.8, n)).round().clip(1, 200).astype(np.int64)
    return natoms, (natoms * rng.uniform(12, 70, n)).astype(np.int64)


def mix(rng: np.random.Generator, n: int) -> tuple[Indices, Indices]:
    """Return both, and one in fifty a slab of 150 to 350 atoms."""
    parts = [molecules(rng, n), crystals(rng, n)]
    slabs = rng.integers(150, 351, n)
    parts.append((slabs, (slabs * rng.uniform(30, 55, n)).astype(np.int64)))
    kind = rng.choice(3, n, p=[0.5, 0.48, 0.02])
    return np.choose(kind, [p[0] for p in parts]), np.choose(kind, [p[1] for p in parts])


def spread(costs: Indices, owner: Indices, ranks: int) -> float:
    """Return the largest load over the mean one."""
    loads = np.bincount(owner, weights=costs, minlength=ranks)
    return float(loads.max() / loads.mean())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1024])
    parser.add_argument("--graphs", type=int, nargs="+", default=[4, 8, 16, 32])
    parser.add_argument("--steps", type=int, default=10)
    given = parser.parse_args()
    print(
        f"{'set':10}{'ranks':>7}{'graphs':>8}{'round robin':>13}{'dealt':>8}{'alone':>7}{'ms all':>9}{'ms a rank':>11}"
    )
    for name, draw in (("molecules", molecules), ("crystals", crystals), ("mix", mix)):
        for ranks in given.ranks:
            for graphs in given.graphs:
                rng = np.random.default_rng(0)
                rows = []
                for step in range(given.steps):
                    costs = cost(*draw(rng, graphs * ranks))
                    began = time.process_time()
                    owner = partition(costs, ranks)
                    middle = time.process_time()
                    assign(costs, step % ranks, ranks)
                    ended = time.process_time()
                    turns = np.arange(len(costs)) % ranks
                    found = spread(costs, turns, ranks), spread(costs, owner, ranks), costs.max() * ranks / costs.sum()
                    rows.append((*found, middle - began, ended - middle))
                plain, dealt, alone, whole, one = np.mean(rows, axis=0)
                print(
                    f"{name:10}{ranks:12}{graphs:12}{plain:12.3f}{dealt:12.4f}{alone:12.2f}"
                    f"{1000 * whole:12.1f}{1000 * one:12.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
