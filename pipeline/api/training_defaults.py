"""Hyperparameters of ``train_model`` where the call names none; they depend on the data and the length of training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gfm_pipeline.core.contracts.data import Split
from gfm_pipeline.core.contracts.training import Compile, Device

if TYPE_CHECKING:
    from gfm_pipeline.apps.dataset import Dataset
    from gfm_pipeline.core.contracts.dataset_statistics import DatasetStatistics

# The defaults that won at equal cost (docs/accuracy.md). The end of a training is known here, so the rate falls to it.
CUTOFF = 5.0  # Angstrom
DEFAULTS: dict[str, Any] = {"cutoff": CUTOFF, "learning_rate": 5e-3, "schedule": "cosine"}
MODEL: dict[str, Any] = {"algorithm": "PaiNN", "hidden": 64, "layers": 3}
MODEL_OF_LARGE_GRAPHS: dict[str, Any] = {"algorithm": "EGNN", "hidden": 32, "layers": 2}
MODEL_OF_MANY_PASSES: dict[str, Any] = {"algorithm": "MACE", "hidden": 32, "layers": 2}
MANY_PASSES = 20  # over the training structures, which PaiNN then begins to learn by heart
LARGE_GRAPH = 2_000  # edges; a step of one such graph costs as much as that of ten molecules
# Edges of all structures seen from which compiling the pass pays: 5 million with PaiNN, 15 with EGNN
# (docs/performance.md). The length of a training is known here, so this is lower than where trainings may end early.
COMPILED_FROM = 10_000_000
ATOMS_PER_STEP, LARGEST_BATCH = 64, 16
WARMUP_STEPS, WARMUP_SHARE = 50, 0.05  # the longest warm-up, and its largest share of all steps


def default_model(datasets: Sequence[Dataset], device: str, graphs: int) -> dict[str, Any]:
    """Return the algorithm, width and layers of a training that sees ``graphs`` structures and names no algorithm.

    On CPUs the cost of a step grows with its edges. Cells of a hundred atoms have thousands, and then an algorithm that
    costs a fifth per edge learns more at equal cost, since it makes five times the steps. Elsewhere, a training of many
    passes over its structures takes MACE: each step costs three times as much, but errors away from the training data
    are a third smaller, where those of PaiNN grow with every further pass.
    """
    if device == Device.CPU and sum(_edges(d.statistics) for d in datasets) > LARGE_GRAPH * _structures(datasets):
        return MODEL_OF_LARGE_GRAPHS
    return MODEL_OF_MANY_PASSES if graphs >= MANY_PASSES * _structures(datasets) else MODEL


def default_hyperparameters(datasets: Sequence[Dataset], device: str, graphs: int) -> dict[str, Any]:
    """Return the hyperparameters other than `default_model` of a training that sees ``graphs`` structures.

    On CPUs, where the cost of a step grows with its atoms, a batch has about `ATOMS_PER_STEP` atoms, and at most
    `LARGEST_BATCH` structures: more and smaller steps learn more at equal cost. Each atom has a force, so one large
    structure says as much per step as many small ones. Elsewhere small steps cost as much as large ones.

    The warm-up lasts `WARMUP_STEPS` steps, and in short trainings `WARMUP_SHARE` of them: a training of large cells may
    make no more than a hundred.
    """
    batch = LARGEST_BATCH
    if device == Device.CPU:
        atoms = sum(dataset.statistics.n_atoms[Split.TRAIN] for dataset in datasets)
        batch = min(LARGEST_BATCH, max(1, round(ATOMS_PER_STEP * _structures(datasets) / max(1, atoms))))
    warmup = min(WARMUP_STEPS, max(1, round(WARMUP_SHARE * graphs / batch)))
    return DEFAULTS | {"batch_size": batch, "warmup": warmup}


def default_compile(datasets: Sequence[Dataset], graphs: int) -> Compile:
    """Return whether a training that sees ``graphs`` structures compiles its pass: when that saves time."""
    edges = sum(_edges(dataset.statistics) for dataset in datasets) / max(1, _structures(datasets))
    return Compile.ALWAYS if graphs * edges >= COMPILED_FROM else Compile.NEVER


def begun_model(checkpoints: Path) -> dict[str, Any]:
    """Return the algorithm, width and layers of the newest checkpoint in a folder, empty without one.

    A training that an earlier version began, with other defaults, goes on with its model.
    """
    if not any(checkpoints.glob("*")):
        return {}
    from gfm_pipeline.apps.train.checkpoint import newest

    found = newest(checkpoints.glob("graphs-*"))
    return {} if found is None else {name: getattr(found.card.model, name) for name in MODEL}


def _structures(datasets: Sequence[Dataset]) -> int:
    return sum(dataset.statistics.n_structures[Split.TRAIN] for dataset in datasets)


def _edges(facts: DatasetStatistics) -> float:
    """Return the number of edges of the training split within the default cutoff, or the nearest larger one known."""
    known = sorted(facts.neighbours, key=lambda one: (one.cutoff < CUTOFF, abs(one.cutoff - CUTOFF)))
    return known[0].mean * facts.n_atoms[Split.TRAIN] if known else 0.0
