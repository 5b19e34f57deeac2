"""How fast several ranks train together on this machine, beside one.

    python benchmarks/ranks.py [--ranks 1 2] [--algorithm PaiNN] [--hidden 64] [--batch 32] [--steps 30] [--rounds 3]

The ranks are started as a campaign starts them on a node (`gfm_pipeline.apps.runtime.spawn`), one thread each,
connected by
gloo. ``strong`` keeps the whole batch as it is, ``weak`` gives each rank so many graphs. The efficiency is that of
graphs per second against so many times those of one rank. Both times of a rank are printed, wall and processor: where
the first exceeds the second, the rank waited, for the others or for a core that somebody else had. Structures are
rattled copper-gold crystals of 4 to 32 atoms; labels are random numbers, as speed does not depend on them. The best
of several rounds counts.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from gfm_pipeline.apps.runtime.program import Task, run_program
from gfm_pipeline.core.contracts.attempts.launch import DeviceSelection, RankFile
from gfm_pipeline.core.contracts.training import Device
from gfm_pipeline.core.publish import write_record

CUTOFF = 5.0
WARM_UP = 5


@dataclass(frozen=True)
class Spec:
    """One measurement: ``batch`` graphs per step of all ranks together."""

    ranks: int
    algorithm: str
    hidden: int
    batch: int
    steps: int
    device: Device = Device.CPU


def measure(spec: Spec, task: Task) -> dict[str, float]:
    """Train for some steps as one of the ranks."""
    import torch

    from gfm_pipeline.apps.train.device import torch_device
    from gfm_pipeline.apps.train.distributed import process_group

    torch.set_num_threads(1)
    device = torch_device(spec.device)
    with process_group(spec.ranks, spec.device, device) as communicator:
        task.rank = communicator.rank
        trainer = make_trainer(spec, communicator, device)
        for _ in range(WARM_UP):
            trainer.step()
        communicator.barrier()
        wall, processor = time.perf_counter(), time.process_time()
        for _ in range(spec.steps):
            trainer.step()
        communicator.barrier()
        found = (time.perf_counter() - wall, time.process_time() - processor)
    return {"wall": found[0] / spec.steps, "processor": found[1] / spec.steps, "parameters": trainer.n_parameters}


def make_trainer(spec: Spec, communicator, device):
    """Return a trainer on random crystals."""
    import numpy as np
    from ase.build import bulk

    from gfm_pipeline.apps.dataset import Columns, GraphTable
    from gfm_pipeline.apps.dataset.batching.graph_source import InMemorySource
    from gfm_pipeline.apps.train.checkpoint import ModelCard
    from gfm_pipeline.apps.train.sampler import Sampler
    from gfm_pipeline.apps.train.trainer import Splits, Trainer
    from gfm_pipeline.core.contracts.training import ModelSettings, OptimiserSettings
    from gfm_pipeline.models import ModelSpec

    rng = np.random.default_rng(0)
    crystals = []
    for k in range(256):
        atoms = bulk("CuAu"[2 * (k % 2) :][:2], cubic=True).repeat(((1, 1, 1), (2, 1, 1), (2, 2, 1), (2, 2, 2))[k % 4])
        atoms.rattle(0.05, seed=k)
        crystals.append(atoms)
    natoms = np.array([len(atoms) for atoms in crystals])
    columns = Columns.build(
        numbers=np.concatenate([atoms.numbers for atoms in crystals]),
        pos=np.concatenate([atoms.positions for atoms in crystals]),
        forces=rng.normal(size=(natoms.sum(), 3)),
        energy=rng.normal(size=len(crystals)),
        cell=np.array([np.asarray(atoms.cell) for atoms in crystals]),
        pbc=np.ones((len(crystals), 3)),
        natoms=natoms,
    )
    table = GraphTable.build(columns, CUTOFF, 0, {"energy": {"Cu": 0.0, "Au": 0.0}})
    settings = OptimiserSettings(1e-3, spec.batch, 1.0)
    card = ModelCard(
        spec=ModelSpec(spec.algorithm, spec.hidden, 3, CUTOFF, avg_neighbours=table.avg_neighbours),
        datasets=("random",),
        references={"random": {"Cu": 0.0, "Au": 0.0}},
        force_rms=(1.0,),
        model=ModelSettings(spec.algorithm, spec.hidden, 3, CUTOFF),
        optimiser=settings,
        seed=0,
    )
    sampler = Sampler([len(table)], 1.0, 0)
    return Trainer(
        card, Splits((InMemorySource(table),), {}), settings, sampler, communicator=communicator, device=device
    )


def run(spec: Spec) -> dict[str, float]:
    """Measure with ``spec.ranks`` processes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_record(folder / "spec.json", spec)
        RankFile(
            ranks=spec.ranks,
            ranks_per_node=spec.ranks,
            nodes=(),
            master_address="127.0.0.1",
            master_port=0,
            visible_variable=None,
            rank_gpus=(),
            rank_cores=(),
            bind=False,
            device=DeviceSelection.RANK,
            unset=(),
            exports={"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent)},
            rank_variable="",
            local_rank_variable="",
            wrapper_timeout_seconds=600.0,
        ).write(folder)
        command = [sys.executable, "-m", "gfm_pipeline.apps.runtime.spawn", Path(__file__).stem, "spec.json"]
        subprocess.run(command, cwd=folder, check=True)
        found: dict[str, float] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--algorithm", default="PaiNN")
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before; {given.algorithm}, hidden {given.hidden}")
    print(f"{'':8}{'ranks':>6}{'batch':>7}{'steps/s':>10}{'graphs/s':>10}{'ms wall':>9}{'ms cpu':>9}{'efficiency':>12}")
    for kind in ("strong", "weak"):
        best: dict[int, dict[str, float]] = {}
        for _ in range(given.rounds):  # rounds outside, so that all numbers of ranks meet the same machine
            for ranks in given.ranks:
                batch = given.batch * (ranks if kind == "weak" else 1)
                found = run(Spec(ranks, given.algorithm, given.hidden, batch, given.steps))
                if ranks not in best or found["wall"] < best[ranks]["wall"]:
                    best[ranks] = {**found, "batch": batch}
        first = given.ranks[0]
        alone = best[first]["batch"] / best[first]["wall"] / first
        for ranks, found in best.items():
            speed = found["batch"] / found["wall"]
            print(
                f"{kind:8}{ranks:6}{found['batch']:7}{1 / found['wall']:10.2f}{speed:10.1f}{1000 * found['wall']:9.1f}"
                f"{1000 * found['processor']:9.1f}{speed / (ranks * alone):12.2f}"
            )
    print(f"load {os.getloadavg()[0]:.1f} after")


if __name__ == "__main__":
    if len(sys.argv) == 2 and sys.argv[1].endswith(".json"):
        sys.exit(run_program(Spec, measure))
    main()
