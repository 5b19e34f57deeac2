"""What has to be seen on a GPU, in one run of under eight minutes: equality, synchronisations, speed, neighbour lists.

    python benchmarks/gpu.py [--device cuda] [--algorithms PaiNN EGNN ...] [--seconds 400]

1. Equality in float64: energies and forces of every algorithm on the device against the CPU, and the directional
   derivative of the energy against its forces (central differences, 1e-4 Angstrom).
2. Synchronisations of the host in one training step (forward, loss, backward), as torch's sync debug mode counts them;
   CUDA and ROCm only. The aim is none.
3. Structures per second of a training step, energies and forces, float32: batches of 16, 64 and 256, with TF32 off
   (the default of this project) and on, and peak memory of the device.
4. Neighbour lists of many structures at once, on the device against the CPU (`benchmarks/neighbours.py`).

The script stops before a part that would begin after ``--seconds``, and says which parts it left out. Exit code 1: a
part found something wrong. ``--device cpu`` tries the script itself; its rates mean nothing then.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import warnings
from dataclasses import replace
from pathlib import Path
from statistics import median

import neighbours
import numpy as np
import torch
from against_hydragnn import ingest

from gfm_pipeline.apps.dataset import GraphTable, collate
from gfm_pipeline.core.contracts.algorithms import BUILT_IN
from gfm_pipeline.core.contracts.data import Split
from gfm_pipeline.models import Batch, ModelSpec, Potential, multitask_loss

ENERGIES, FORCES, DERIVATIVE = 1e-9, 1e-8, 1e-5  # relative to the largest value
WEIGHTS = {"energy": 1.0, "forces": 10.0}


def synchronise(device: torch.device) -> None:
    """Wait for what the device was given."""
    if device.type != "cpu":
        torch.get_device_module(device).synchronize(device)


def doubled(batch: Batch) -> Batch:
    """Return a batch in float64."""
    labels = {name: value.double() for name, value in batch.labels.items()}
    cell = None if batch.cell is None else batch.cell.double()
    return replace(batch, pos=batch.pos.double(), edge_shift=batch.edge_shift.double(), cell=cell, labels=labels)


def drawn(table: GraphTable, size: int) -> Batch:
    """Return a batch of ``size`` structures, in turn."""
    return collate([table], np.zeros(size, dtype=np.int64), np.arange(size) % len(table.natoms))


def model_of(name: str, table: GraphTable, hidden: int) -> Potential:
    """Return a model with the same random weights each time."""
    torch.manual_seed(0)
    return Potential(ModelSpec(name, hidden=hidden, layers=3, cutoff=5.0, avg_neighbours=table.avg_neighbours))


def equality(name: str, table: GraphTable, device: torch.device) -> tuple[float, float, float]:
    """Return the largest relative differences of energies, forces, and of the derivative from the forces."""
    here, batch = model_of(name, table, 16).double(), doubled(drawn(table, 4))
    there = model_of(name, table, 16).double().to(device)
    expected, found = here(batch), there(batch.to(device))
    energy, forces = found.energy.cpu(), found.forces.cpu()
    direction = torch.randn(batch.pos.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    moved = [there(replace(batch, pos=batch.pos + h * direction).to(device)).energy.sum().item() for h in (1e-4, -1e-4)]
    derivative, work = (moved[0] - moved[1]) / 2e-4, -(forces * direction).sum().item()
    return (
        float((energy - expected.energy).abs().max() / expected.energy.abs().max()),
        float((forces - expected.forces).abs().max() / expected.forces.abs().max()),
        abs(derivative - work) / max(abs(work), 1e-3),
    )


def step(model: Potential, batch: Batch, scales: dict[str, torch.Tensor]) -> None:
    """Make the gradient of one step."""
    loss = multitask_loss(model(batch, training=True), batch, scales, WEIGHTS)
    torch.autograd.grad(loss.total, list(model.parameters()), allow_unused=True)


def synchronisations(name: str, table: GraphTable, device: torch.device) -> list[str]:
    """Return where one training step makes the host wait."""
    model, batch = model_of(name, table, 32).to(device), drawn(table, 16).to(device)
    scales = {target.name: torch.ones(1, device=device) for target in model.spec.targets}
    step(model, batch, scales)  # lazy initialisation waits
    synchronise(device)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            step(model, batch, scales)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return [f"{Path(w.filename).name}:{w.lineno}" for w in seen if "synchroniz" in str(w.message)]


def rate(name: str, table: GraphTable, device: torch.device, size: int) -> tuple[float, float]:
    """Return structures per second of wall-clock time, median of five, and peak memory of the device in GiB."""
    model, batch = model_of(name, table, 64).to(device), drawn(table, size).to(device)
    scales = {target.name: torch.ones(1, device=device) for target in model.spec.targets}
    memory = None if device.type == "cpu" else torch.get_device_module(device)
    if memory is not None:
        memory.reset_peak_memory_stats(device)
    for _ in range(2):
        step(model, batch, scales)
    times = []
    for _ in range(5):
        synchronise(device)
        begin = time.perf_counter()
        step(model, batch, scales)
        synchronise(device)
        times.append(time.perf_counter() - begin)
    return size / median(times), 0.0 if memory is None else memory.max_memory_allocated(device) / 2**30


def check_equality(names: list[str], table: GraphTable, device: torch.device) -> bool:
    """Print the table of differences; return whether all are small."""
    print("\n| algorithm | energies | forces | derivative - forces | |\n|---|---|---|---|---|")
    right = True
    for name in names:
        energies, forces, derivative = equality(name, table, device)
        fine = energies <= ENERGIES and forces <= FORCES and derivative <= DERIVATIVE
        right &= fine
        print(f"| {name} | {energies:.1e} | {forces:.1e} | {derivative:.1e} | {'' if fine else 'WRONG'} |", flush=True)
    return right


def count_synchronisations(names: list[str], table: GraphTable, device: torch.device) -> bool:
    """Print where steps wait; return whether none does."""
    if device.type != "cuda":
        print(f"\nSynchronisations are counted on CUDA and ROCm only, not on {device.type}.")
        return True
    print("\n| algorithm | synchronisations per step | where |\n|---|---|---|")
    found = {name: synchronisations(name, table, device) for name in names}
    for name, places in found.items():
        print(f"| {name} | {len(places)} | {', '.join(sorted(set(places)))} |", flush=True)
    return not any(found.values())


def measure_speed(names: list[str], table: GraphTable, device: torch.device, sizes: list[int], until: float) -> None:
    """Print structures per second, as far as the time goes."""
    heads = " | ".join(f"{size}, TF32 {'on' if tf32 else 'off'}" for size in sizes for tf32 in (False, True))
    print(f"\n| algorithm | {heads} | GiB |\n|{'---|' * (2 * len(sizes) + 2)}")
    for name in names:
        if time.monotonic() > until:
            print(f"No time was left for {', '.join(names[names.index(name) :])}.")
            return
        cells, peak = [], 0.0
        for size in sizes:
            for tf32 in (False, True):
                torch.set_float32_matmul_precision("high" if tf32 else "highest")
                per_second, memory = rate(name, table, device, size)
                cells.append(f"{per_second:,.0f}")
                peak = max(peak, memory)
        torch.set_float32_matmul_precision("highest")
        print(f"| {name} | {' | '.join(cells)} | {peak:.2f} |", flush=True)


def main() -> int:
    """Run all parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda (ROCm too), xpu, or cpu to try the script")
    own = [name for name, about in BUILT_IN.items() if not about.missing and "mace" not in about.needs]
    parser.add_argument("--algorithms", nargs="*", default=own, choices=own, metavar="NAME")
    parser.add_argument("--sizes", nargs="*", type=int, default=[16, 64, 256], help="structures per batch")
    parser.add_argument("--seconds", type=float, default=400.0, help="no part begins after them")
    asked = parser.parse_args()
    device = torch.device(asked.device)
    if device.type != "cpu" and not torch.get_device_module(device).is_available():
        print(f"No {device.type} device is here; --device cpu tries the script.", file=sys.stderr)
        return 2
    until = time.monotonic() + asked.seconds
    name = "the CPU" if device.type == "cpu" else torch.get_device_module(device).get_device_name(device)
    print(f"torch {torch.__version__} on {name}")
    with tempfile.TemporaryDirectory() as folder:
        dataset = ingest(Path(folder), [])
        table = GraphTable.build(dataset.columns(Split.VALIDATION), 5.0, 0, dataset.statistics.references)
        right = check_equality(asked.algorithms, table, device)
        right &= count_synchronisations(asked.algorithms, table, device)
        measure_speed(asked.algorithms, table, device, asked.sizes, until)
    if time.monotonic() < until:
        print()
        neighbours.compare_batched(device, [5.0], 0.3, 1024)
    else:
        print("No time was left for neighbour lists.")
    return 0 if right else 1


if __name__ == "__main__":
    raise SystemExit(main())
