"""What each precision of training costs in force noise and time, on random clusters and the CPU or a GPU.

    python benchmarks/precision.py [--device cuda] [--algorithms SchNet PaiNN]

Noise is the RMS difference of forces from those of the same weights in float64, over the RMS of those forces; time is
that of a training step over that of fp32.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

import numpy as np
import torch

from gfm_pipeline.apps.dataset import Columns, GraphTable, collate
from gfm_pipeline.apps.train.device import autocast, dtype_of, set_precision
from gfm_pipeline.core.contracts.optimisation.settings import Precision
from gfm_pipeline.models import Batch, ModelSpec, Potential

ALGORITHMS = ("SchNet", "EGNN", "PaiNN", "PNA", "MACE", "NequIP")
HIDDEN, LAYERS, CUTOFF, GRAPHS, ATOMS = 32, 2, 5.0, 16, 20
TURNS = 5


def clusters() -> Batch:
    """Return random clusters of H, C, N and O, no two atoms closer than 0.9 Angstrom."""
    rng = np.random.default_rng(0)
    corners = np.stack(np.meshgrid(*[np.arange(3)] * 3, indexing="ij"), -1).reshape(-1, 3) * 1.6
    pos = np.concatenate(
        [corners[rng.permutation(27)[:ATOMS]] + rng.uniform(-0.3, 0.3, (ATOMS, 3)) for _ in range(GRAPHS)]
    )
    columns = Columns.build(
        numbers=rng.choice([1, 6, 7, 8], GRAPHS * ATOMS),
        pos=pos,
        forces=np.zeros_like(pos),
        energy=np.zeros(GRAPHS),
        cell=np.zeros((GRAPHS, 3, 3)),
        pbc=np.zeros((GRAPHS, 3)),
        natoms=np.full(GRAPHS, ATOMS),
    )
    table = GraphTable.build(columns, CUTOFF, 0, {})
    return collate([table], np.zeros(GRAPHS, np.int64), np.arange(GRAPHS))


def measured(algorithm: str, precision: Precision, batch: Batch, device: torch.device) -> tuple[torch.Tensor, float]:
    """Return forces, and the least seconds of a training step."""
    torch.manual_seed(0)
    model = Potential(ModelSpec(algorithm, HIDDEN, LAYERS, CUTOFF)).to(device, dtype_of(precision))
    there, least = batch.to(device, model.dtype), float("inf")
    for _ in range(TURNS):
        model.zero_grad()
        started = time.process_time() if device.type == "cpu" else time.perf_counter()
        with autocast(precision, device):
            out = model(there, training=True)
        (out.energy.abs().sum() + out.forces.square().sum()).backward()
        if device.type != "cpu":
            torch.cuda.synchronize()
        now = time.process_time() if device.type == "cpu" else time.perf_counter()
        least = min(least, now - started)
    return out.forces.detach().double().cpu(), least


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--algorithms", nargs="+", default=list(ALGORITHMS))
    options = parser.parse_args()
    device, batch = torch.device(options.device), clusters()
    if device.type == "cpu":
        torch.set_num_threads(1)
    asked = [p for p in Precision if p not in (Precision.FP64, Precision.TF32) or device.type != "cpu"]
    shown = [p for p in asked if p is not Precision.FP64] + [Precision.FP64]
    print("| algorithm | " + " | ".join(f"{p}: noise, time" for p in shown) + " |")
    print("|---" * (1 + len(shown)) + "|")
    for algorithm in options.algorithms:
        found = {}
        for precision in shown:
            set_precision(precision, device)
            found[precision] = measured(algorithm, precision, replace(batch), device)
        exact, base = found[Precision.FP64][0], found[Precision.FP32][1]
        cells = []
        for precision in shown:
            forces, seconds = found[precision]
            noise = float((forces - exact).square().mean().sqrt() / exact.square().mean().sqrt())
            cells.append(f"{noise:.0e}, {seconds / base:.2f}")
        print(f"| {algorithm} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
