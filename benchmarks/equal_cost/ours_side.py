"""Train a model of this project, with what `gfm_pipeline.train_model` takes where the task says nothing."""

from __future__ import annotations

import os
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import torch

from equal_cost.clock import BATCH, Budget, answer, task
from gfm_pipeline.api.training_defaults import default_compile, default_hyperparameters, default_model
from gfm_pipeline.apps.dataset import Dataset
from gfm_pipeline.apps.deploy.batches import batch_of
from gfm_pipeline.apps.ingest.assemble import assemble_program
from gfm_pipeline.apps.ingest.read import read_shard_program
from gfm_pipeline.apps.runtime.program import Task
from gfm_pipeline.apps.train.compiled import compiled_pass
from gfm_pipeline.apps.train.device import keep_freed_memory
from gfm_pipeline.apps.train.setup import prepare
from gfm_pipeline.apps.train.trainer import Trainer
from gfm_pipeline.core.contracts.data import AssembleSpec, Duplicates, ReadShardSpec, SourceSettings, Split
from gfm_pipeline.core.contracts.sources import validate_options
from gfm_pipeline.core.contracts.training import Compile, DatasetRef, TrainSpec, settings_of

PROBE = 3  # steps
SPLITS = {"train": Split.TRAIN, "validation": Split.VALIDATION, "test": Split.TEST}


def ingest(files: dict[str, str], folder: Path) -> Dataset:
    """Ingest the three files as a campaign does, with their splits."""
    source = SourceSettings(
        "set", "ase", tuple(files.values()), validate_options("ase", {"format": "extxyz"}),
        file_splits=tuple(SPLITS[name] for name in files), duplicates=Duplicates.KEEP, overlap=0.0,
    )  # fmt: skip
    read = read_shard_program(ReadShardSpec(source, 0, 0, str(folder / "shard")), Task(folder))
    if read.n_quarantined:
        raise SystemExit(f"{read.n_quarantined} records were quarantined: {read.reasons}")
    spec = AssembleSpec(source, (read.output,), 0.1, 0.1, 0.0, 0, str(folder / "set"))
    return Dataset.open(Path(assemble_program(spec, Task(folder)).output))


def graphs_within(spec: TrainSpec, seconds: float) -> tuple[int, float]:
    """Return how many structures fit into a budget, and the seconds of the few steps that show it.

    `gfm_pipeline.train_model` is told this number, and its defaults depend on it.
    """
    trainer = prepare(spec)
    budget = Budget(seconds)
    for _ in range(PROBE):
        trainer.step()
    used = budget.used
    trainer.close()
    return max(1, round((seconds - used) / used * trainer.state.graphs)), used


def trained(spec: TrainSpec, seconds: float, *, compile_pass: bool) -> tuple[Trainer, float]:
    """Train until the budget ends; the schedule's end follows the clock."""
    trainer = prepare(spec)
    budget = Budget(seconds)
    if compile_pass:
        trainer.training_pass = compiled_pass(trainer.model)
    while budget.done < 1.0:
        trainer.step()
        trainer.horizon = max(trainer.state.graphs + 1, round(trainer.state.graphs / max(budget.done, 1e-9)))
    trainer.validate(None)
    trainer.close()
    return trainer, budget.used


def predictions(trainer: Trainer, file: str) -> tuple[list[float], list[Any]]:
    """Return energies (eV) and forces (eV/Angstrom) of structures by the averaged weights, in double precision."""
    model = trainer.average.double()
    references = trainer.card.references_of("set")["energy"]
    structures = ase.io.read(file, ":")
    energies: list[float] = []
    forces = []
    for first in range(0, len(structures), BATCH):
        some = structures[first : first + BATCH]
        found = model(batch_of(some, trainer.card.spec.cutoff, torch.float64, torch.device("cpu"))).values
        without = found["energy"].detach().reshape(-1).tolist()
        energies += [
            e + sum(references[symbol] for symbol in atoms.symbols) for e, atoms in zip(without, some, strict=True)
        ]
        forces.append(found["forces"].detach().numpy())
    return energies, forces


def main() -> None:
    """Train, then predict the test structures."""
    asked = task()
    torch.set_num_threads(1)
    keep_freed_memory()
    settings = dict(asked["settings"])
    options = {f"options.{name}": value for name, value in settings.pop("options", {}).items()}
    chosen = settings.pop("compile", None)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ |= {"TORCHINDUCTOR_CACHE_DIR": f"{name}/compiled", "TORCHINDUCTOR_COMPILE_THREADS": "1"}
        dataset = ingest({split: asked[split] for split in SPLITS}, folder)

        def spec_of(graphs: int) -> TrainSpec:
            defaults = default_model([dataset], "cpu", graphs) | default_hyperparameters([dataset], "cpu", graphs)
            model, optimiser = settings_of(defaults | {"cutoff": asked["cutoff"]} | settings | options)
            return TrainSpec(
                task="accuracy", model=model, optimiser=optimiser, datasets=(DatasetRef("set", str(dataset.path)),),
                seed=asked["seed"], output=str(folder / "trained"), budget_graphs=10**9,
            )  # fmt: skip

        # the model depends on how many structures it will see, and that on the model: first as if there were time for
        # many passes, then, if there is not, with the model of few passes
        graphs, probed = graphs_within(spec_of(10**9), asked["seconds"])
        if spec_of(graphs).model != spec_of(10**9).model:
            graphs, again = graphs_within(spec_of(graphs), asked["seconds"] - probed)
            probed += again
        pays = default_compile([dataset], graphs) is Compile.ALWAYS
        compile_pass = pays if chosen is None else bool(chosen)
        trainer, used = trained(spec_of(graphs), asked["seconds"] - probed, compile_pass=compile_pass)
        used += probed
    energies, forces = predictions(trainer, asked["test"])
    state = trainer.state
    kind = ", compiled" if trainer.training_pass.compiled else ""
    facts = {"version": f"gfm-pipeline {version('gfm-pipeline')}{kind}", "parameters": trainer.n_parameters}
    facts |= {"cpu_seconds": used, "steps": state.steps, "structures": state.graphs}
    answer(asked["output"], energies, np.concatenate(forces)[None], facts)


if __name__ == "__main__":
    main()
