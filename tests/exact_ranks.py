"""Run by every rank: ``python -m exact_ranks SPEC.json``; training in double precision, and ranks that misbehave."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from training_cases import REFERENCE, morse_columns

from gfm_pipeline.apps.dataset import GraphTable
from gfm_pipeline.apps.dataset.batching.graph_source import InMemorySource
from gfm_pipeline.apps.runtime.program import Task, run_program
from gfm_pipeline.apps.train import composition_fit as composition
from gfm_pipeline.apps.train import trainer as training
from gfm_pipeline.apps.train.device import CPU
from gfm_pipeline.apps.train.distributed import Communicator, process_group
from gfm_pipeline.apps.train.sampler import Sampler
from gfm_pipeline.core.contracts.optimisation.settings import OptimiserSettings, Precision
from gfm_pipeline.core.contracts.targets import ENERGY
from gfm_pipeline.core.contracts.training import Device
from gfm_pipeline.models import ForceHead, ModelSpec

STEPS = 3
ALGORITHMS = ("SchNet", "EGNN", "PaiNN", "PNA", "NequIP")


@dataclass(frozen=True)
class Spec:
    ranks: int
    batch: int = 12
    micro_batch: int | None = None
    mischief: str | None = None  # of the last rank: drift, silent, error
    timeout: float = 30.0


def table(seed: int, n: int, dataset: int, missing: bool) -> GraphTable:
    columns = morse_columns(seed, n, 1.0 + dataset)
    if missing:
        columns = columns.take(np.arange(len(columns)))
        columns.energy[::3] = np.nan
        columns.forces[::5] = np.nan
    return GraphTable.build(columns, 3.0, dataset, {"energy": REFERENCE})


def make(algorithm: str, head: ForceHead, spec: Spec, communicator: Communicator) -> training.Trainer:
    card = training.ModelCard(
        spec=ModelSpec(algorithm, 8, 2, 3.0, force_head=head, n_datasets=2, avg_neighbours=2.5),
        datasets=("soft", "hard"),
        references={"soft": REFERENCE, "hard": REFERENCE},
        force_rms=(0.7, 1.4),
        model=None,
        optimiser=None,
        seed=5 + communicator.rank,  # other weights on every rank, until rank 0 gives them its own
    )
    train = (InMemorySource(table(0, 30, 0, True)), InMemorySource(table(10, 20, 1, False)))
    samples = tuple(
        composition.fit_sample(source, size, communicator) for source, size in zip(train, (26, 3), strict=True)
    )
    splits = training.Splits(train, {"soft": table(1, 25, 0, True), "hard": table(11, 9, 1, False)}, samples)
    settings = OptimiserSettings(5e-3, spec.batch, 2.0, clip_norm=0.5, precision=Precision.FP64)
    sampler = Sampler([30, 20], 2.0, 1)
    return training.Trainer(card, splits, settings, sampler, None, None, spec.micro_batch, communicator, CPU)


def misbehave(spec: Spec, trainer: training.Trainer, communicator: Communicator) -> None:
    if communicator.rank < communicator.size - 1:
        return
    if spec.mischief == "drift":
        trainer.weights.data[3] += 1e-7
    elif spec.mischief == "silent":
        time.sleep(3600)
    elif spec.mischief == "error":
        raise ValueError("a defect of this rank alone")


def body(spec: Spec, task: Task) -> dict[str, int]:
    torch.set_num_threads(1)
    found: dict[str, np.ndarray] = {}
    with process_group(spec.ranks, Device.CPU, CPU, spec.timeout) as communicator:
        task.rank = communicator.rank
        Path(f"pid-{communicator.rank}").write_text(str(os.getpid()))
        cases = [(name, ForceHead.CONSERVATIVE) for name in ALGORITHMS] + [("SchNet", ForceHead.DIRECT)]
        for name, head in cases:
            trainer = make(name, head, spec, communicator)
            measured = trainer.validate(20)
            found[f"{name}-{head}-score"] = np.array([measured.objective, measured.standard_error])
            found[f"{name}-{head}-shift"] = trainer.average.shift(ENERGY).values.numpy().copy()
            for step in range(STEPS):
                misbehave(spec, trainer, communicator)
                trainer.step(stopping=communicator.rank == communicator.size - 1 and step == STEPS - 1)
                if spec.mischief is not None:
                    trainer.validate(20)
                found[f"{name}-{head}-gradient{step}"] = trainer.weights.grad.numpy().copy()
                assert trainer.stop_requested == (communicator.size > 1 and step == STEPS - 1)
            found[f"{name}-{head}-weights"] = trainer.weights.detach().numpy().copy()
            found[f"{name}-{head}-loss"] = np.array(trainer.train_loss)
        assert communicator.broadcast_object({"from": communicator.rank, "text": "é"}) == {"from": 0, "text": "é"}
    np.savez(f"found-{task.rank}.npz", **found)
    return {"rank": task.rank}


if __name__ == "__main__":
    sys.exit(run_program(Spec, body))
