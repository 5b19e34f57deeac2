"""Direct forces in a first part of the training, against none, at equal processor time.

    GFM_REAL_DATA=FOLDER python benchmarks/direct_share.py [--seconds 20] [--seeds 2] [--shares 0 0.25 0.5]

PaiNN (32 channels, 2 layers) on molecular dynamics of acetylacetone and ethanol, with the
schedule cosine, one thread. A short training of each kind first gives the cost of a step, from which follow the budgets
that take the same time. The table gives the graphs seen, the processor time that it took, and errors of the validation
split, means of the seeds.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from statistics import mean

import torch
from against_hydragnn import ingest

from gfm_pipeline.apps.dataset import Dataset
from gfm_pipeline.apps.train.device import keep_freed_memory
from gfm_pipeline.apps.train.setup import prepare
from gfm_pipeline.apps.train.trainer import Trainer
from gfm_pipeline.core.contracts.training import DatasetRef, ModelSettings, OptimiserSettings, TrainSpec

SETS = {"acac": "acac/train_300K.xyz", "ethanol": "ethanol/train.xyz"}
SETTINGS = {"learning_rate": 3e-3, "batch_size": 8, "schedule": "cosine"}


def trainer_of(dataset: Dataset, share: float, graphs: int, seed: int) -> Trainer:
    """Return a training of so many graphs."""
    return prepare(
        TrainSpec(
            task="share",
            model=ModelSettings("PaiNN", hidden=32, layers=2, cutoff=5.0),
            optimiser=OptimiserSettings(**SETTINGS, direct_share=share),
            datasets=(DatasetRef(dataset.name, str(dataset.path)),),
            seed=seed,
            output="unused",
            budget_graphs=graphs,
        )
    )


def seconds_of(trainer: Trainer, graphs: int) -> float:
    """Train up to so many graphs and return the processor time."""
    begun = time.process_time()
    while trainer.state.graphs < graphs:
        trainer.step()
    trainer.settle()
    return time.process_time() - begun


def cost(dataset: Dataset, share: float) -> float:
    """Return the processor time per graph at the start of a training."""
    trainer = trainer_of(dataset, share, 10**6, 0)
    seconds_of(trainer, 64)
    found = seconds_of(trainer, 64 + 480) / 480
    trainer.close()
    return found


def results(dataset: Dataset, share: float, graphs: int, seeds: int) -> Iterator[tuple[float, float, float]]:
    """Yield processor time, energy error (meV per atom) and force error (meV/Angstrom) for each seed."""
    for seed in range(seeds):
        trainer = trainer_of(dataset, share, graphs, seed)
        seconds = seconds_of(trainer, graphs)
        (errors,) = trainer.validate(None).errors.values()
        trainer.close()
        yield seconds, 1e3 * errors.energy_mae, 1e3 * errors.force_mae


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.0, 0.25, 0.5])
    given = parser.parse_args()
    data = os.environ.get("GFM_REAL_DATA")
    if data is None:
        parser.error("GFM_REAL_DATA must name the folder of real datasets.")
    torch.set_num_threads(1)
    keep_freed_memory()
    print("| set | share | graphs | processor s | energy, meV/atom | force, meV/A |\n|---|---|---|---|---|---|")
    for name, file in SETS.items():
        with tempfile.TemporaryDirectory() as folder:
            with redirect_stdout(sys.stderr):  # its warnings are no part of a table
                dataset = ingest(Path(folder), [str(Path(data) / file)])
            gradient, direct = cost(dataset, 0.0), cost(dataset, 0.9)
            for share in given.shares:
                graphs = int(given.seconds / (share * direct + (1 - share) * gradient)) // 8 * 8
                columns = zip(*results(dataset, share, graphs, given.seeds), strict=True)
                seconds, energy, force = (mean(column) for column in columns)
                print(f"| {name} | {share:g} | {graphs:,} | {seconds:.0f} | {energy:.2f} | {force:.1f} |", flush=True)


if __name__ == "__main__":
    main()
