"""What each algorithm costs for each edge, and what it has learned after as many structures or as much processor time.

    python benchmarks/algorithms.py [ALGORITHM ...] [--dataset FOLDER ...] [--hidden 32] [--layers 2] [--graphs 4000]
    python benchmarks/algorithms.py --seconds 20 --seeds 2 --dataset campaigns/multitask/stages/ingest*/ethanol

Without a dataset (a folder that ingest published) random alloys labelled by ASE's effective medium potential are made.
With ``--seconds`` all have the same processor time for training, so that cheap algorithms see more structures.
Printed a row an algorithm: parameters; microseconds of processor time for each edge of one training step (energies,
forces and their gradient, batches of 16, one thread, least of five); structures seen; structures trained on a second;
and mean absolute errors of the test split, with the learning rate given, averaged over seeds. The score is the mean of
both, as shares of the errors of a model that learned nothing, with its range over seeds. All have the same width and
layers, and options their defaults, so the table compares algorithms as they come and not at their best.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from against_hydragnn import ingest

from gfm_pipeline import evaluate_model, train_model
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


def print_table(asked: argparse.Namespace, dataset: Dataset, work: Path) -> None:
    """Print a row of each algorithm on one dataset."""
    work.mkdir(parents=True, exist_ok=True)
    table = GraphTable.build(dataset.columns(Split.VALIDATION), asked.cutoff, 0, dataset.statistics.references)
    sizes = {"hidden": asked.hidden, "layers": asked.layers, "cutoff": asked.cutoff}
    print(f"\n{dataset.name}: {dataset.statistics.n_structures[Split.TRAIN]} structures to train on\n")
    columns = "algorithm, parameters, us per edge, structures, graphs per second, energy meV/atom, force meV/A, score"
    print("|", columns.replace(",", " |"), "|")
    print("|---" * (columns.count(",") + 1) + "|")
    for name in asked.names or [name for name, about in BUILT_IN.items() if not about.missing]:
        count, cost = cost_per_edge(table, ModelSpec(name, **sizes, avg_neighbours=table.avg_neighbours))
        row = f"| {name} | {count:,} | {1e6 * cost:.2f} |"
        graphs = asked.graphs
        if asked.seconds:
            graphs = max(BATCH, round(asked.seconds / (cost * table.nedges.mean()) / BATCH) * BATCH)
        if graphs:
            found = np.array(
                [learned(dataset, work / f"{name}-{k}", name, graphs, k, asked) for k in range(asked.seeds)]
            )
            speed, energy, force, score = found.mean(0)
            spread = f" ± {np.ptp(found[:, 3]) / 2:.3f}" if asked.seeds > 1 else ""
            row += f" {graphs:,} | {speed:.0f} | {1e3 * energy:.1f} | {1e3 * force:.0f} | {score:.3f}{spread} |"
        print(row, flush=True)


def learned(
    dataset: Dataset, output: Path, name: str, graphs: int, seed: int, asked: argparse.Namespace
) -> list[float]:
    """Train a model; return structures per second, the errors of energies and forces, and the score."""
    result = train_model(
        dataset, output, algorithm=name, graphs=graphs, validate_every=graphs, seed=seed,
        learning_rate=asked.learning_rate, hidden=asked.hidden, layers=asked.layers, cutoff=asked.cutoff,
    )  # fmt: skip
    errors = evaluate_model(output, dataset)
    ratios = [error.ratio for error in errors.by_target() if error.ratio is not None]
    return [result.graphs_per_second, errors.energy_mae, errors.force_mae, float(np.mean(ratios))]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="ALGORITHM")
    parser.add_argument("--dataset", type=Path, nargs="*", default=[])
    parser.add_argument("--hidden", type=int, default=32)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--cutoff", type=float, default=5.0)
    parser.add_argument("--graphs", type=int, default=4000, help="0: costs only")
    parser.add_argument("--seconds", type=float, help="of processor time for each training, in place of --graphs")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        for dataset in [Dataset.open(folder) for folder in asked.dataset] or [ingest(work, [])]:
            print_table(asked, dataset, work / dataset.name)


if __name__ == "__main__":
    main()
