"""What each algorithm costs for each edge, and what it has learned after a fixed number of structures.

    python benchmarks/algorithms.py [ALGORITHM ...] [--dataset FOLDER] [--hidden 32] [--layers 2] [--graphs 4000]

Without a dataset (a folder that ingest published) random alloys labelled by ASE's effective medium potential are made.
Printed a row an algorithm: parameters; microseconds of processor time for each edge of one training step (energies,
forces and their gradient, batches of 16, one thread, least of five); structures trained on a second; and mean absolute
errors of the validation split, with the learning rate given. All have the same width and layers, options have their
defaults, so the table compares algorithms as they come and not at their best.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from against_hydragnn import ingest

from gfm_pipeline import train_model
from gfm_pipeline.apps.dataset import Dataset, GraphTable, collate
from gfm_pipeline.core.contracts.algorithms import BUILT_IN
from gfm_pipeline.core.contracts.data import Split
from gfm_pipeline.models import ModelSpec, Potential, multitask_loss

BATCH, REPEATS = 16, 5


def cost_per_edge(table: GraphTable, spec: ModelSpec) -> tuple[int, float]:
    """Return the number of parameters, and seconds of processor time of a training step for each edge."""
    torch.manual_seed(0)
    model = Potential(spec)
    zeros = np.zeros(BATCH, dtype=np.int64)
    batch = collate([table], zeros, np.arange(BATCH))
    scales = {target.name: torch.ones(1) for target in spec.targets}
    parameters, taken = list(model.parameters()), []
    for _ in range(REPEATS):
        begin = time.process_time()
        loss = multitask_loss(model(batch, training=True), batch, scales, {"energy": 1.0, "forces": 10.0})
        torch.autograd.grad(loss.total, parameters)
        taken.append(time.process_time() - begin)
    return sum(p.numel() for p in parameters), min(taken) / batch.edge_src.numel()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="ALGORITHM")
    parser.add_argument("--dataset", type=Path)
    parser.add_argument("--hidden", type=int, default=32)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--cutoff", type=float, default=5.0)
    parser.add_argument("--graphs", type=int, default=4000, help="0: costs only")
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        dataset = Dataset.open(asked.dataset) if asked.dataset else ingest(work, [])
        table = GraphTable.build(dataset.columns(Split.VALIDATION), asked.cutoff, 0, dataset.statistics.references)
        print("| algorithm | parameters | us per edge | graphs per second | energy MAE meV/atom | force MAE meV/A |")
        print("|---|---|---|---|---|---|")
        for name in asked.names or [name for name, about in BUILT_IN.items() if not about.missing]:
            sizes = {"hidden": asked.hidden, "layers": asked.layers, "cutoff": asked.cutoff}
            count, cost = cost_per_edge(table, ModelSpec(name, **sizes, avg_neighbours=table.avg_neighbours))
            row = f"| {name} | {count:,} | {1e6 * cost:.2f} |"
            if asked.graphs:
                result = train_model(
                    dataset, work / name, algorithm=name, graphs=asked.graphs, validate_every=asked.graphs,
                    learning_rate=asked.learning_rate, **sizes,
                )  # fmt: skip
                (errors,) = result.errors.values()
                learned = f" {1e3 * errors.energy_mae:.1f} | {1e3 * errors.force_mae:.0f} |"
                row += f" {result.graphs_per_second:.0f} |{learned}"
            print(row, flush=True)


if __name__ == "__main__":
    main()
