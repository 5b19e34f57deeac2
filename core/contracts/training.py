"""Training one model: a search rung or a run to convergence, resumable from any checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gfm_pipeline.core.strenum import StrEnum


class Algorithm(StrEnum):
    """Message passing algorithms by the name users write; a test holds it equal to the models' registry."""

    SCHNET = "SchNet"
    EGNN = "EGNN"
    PAINN = "PaiNN"
    PNA = "PNA"


class ForceHead(StrEnum):
    """Where forces come from."""

    CONSERVATIVE = "conservative"  # minus the gradient of the energy
    DIRECT = "direct"  # an equivariant or vector-weighted node head


class Device(StrEnum):
    """Where tensors live, by torch's names: GPUs of AMD (ROCm) are ``cuda`` for torch, too."""

    CPU = "cpu"
    CUDA = "cuda"
    XPU = "xpu"


class StopReason(StrEnum):
    """Why a training ended."""

    BUDGET = "budget"  # reached the rung's number of graphs
    CONVERGED = "converged"  # its own convergence criterion was met
    LIMIT = "limit"  # hit the largest number of graphs before converging
    DIVERGED = "diverged"  # loss not finite


@dataclass(frozen=True)
class ModelSettings:
    """Architecture hyperparameters; keys of a candidate.

    ``algorithm`` is a key of the message passing registry; ``cutoff`` in Angstrom.
    ``options`` holds the algorithm's own hyperparameters.
    """

    algorithm: str
    hidden: int
    layers: int
    cutoff: float
    n_radial: int = 8
    force_head: ForceHead = ForceHead.CONSERVATIVE
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class OptimiserSettings:
    """AdamW with warm-up, EMA weights and a multi-task loss.

    ``force_weight`` is the weight of the force loss against the per-atom energy loss, both in units
    of the training set's force RMS. ``warmup`` counts optimiser steps.
    """

    learning_rate: float
    batch_size: int
    force_weight: float
    weight_decay: float = 1e-3
    ema_decay: float = 0.99
    clip_norm: float = 10.0
    warmup: int = 50


@dataclass(frozen=True)
class DatasetRef:
    """A published dataset folder, by name (its branch in the model) and place."""

    name: str
    path: str


@dataclass(frozen=True)
class Convergence:
    """Train at constant rate until the validation stops improving, then anneal, then stop.

    Every ``check_every`` graphs the EMA weights are validated. When the objective has improved by less
    than ``min_delta`` (relative) over the last ``patience`` checks, or ``max_graphs`` (counted over the
    model's whole life) is reached, the learning rate is annealed to zero over ``anneal_fraction`` of the
    graphs seen so far. The run is ``converged`` in the first case and ``limit`` in the second.
    """

    check_every: int
    patience: int
    min_delta: float
    max_graphs: int
    anneal_fraction: float


@dataclass(frozen=True)
class TrainSpec:
    """Train until ``budget_graphs`` graphs were seen in the model's life, or until ``convergence``.

    Parameters
    ----------
    checkpoint
        Published checkpoint folder to go on from; None: from random weights.
    previous_attempts
        Folders of earlier attempts of this same task, newest last; the newest valid
        checkpoint in them is continued bit for bit.
    output
        Folder to publish the final checkpoint in.
    validation_limit
        Largest number of validation graphs a dataset uses (a fixed subset); None: all.
    temperature
        Datasets are sampled with probability proportional to n**(1/temperature).
    micro_batch
        Graphs that are in memory at a time on a rank; None: its whole share of the batch. An optimiser step and its
        result stay those of the whole batch, up to the rounding of sums.
    ranks
        Processes that train together, each on its share of every batch. Steps and results are those of one rank up
        to the rounding of sums, and bit for bit those of the same number of ranks.
    device
        Where each rank computes; of several devices it sees it uses the first.
    window
        Structures of a training split that are shuffled among each other, and a rank has in memory. Smaller splits are
        held whole, with their edges; of larger ones whole blocks are read as they come. The order of the graphs
        depends on it.
    """

    task: str
    model: ModelSettings
    optimiser: OptimiserSettings
    datasets: tuple[DatasetRef, ...]
    seed: int
    output: str
    budget_graphs: int | None = None
    convergence: Convergence | None = None
    checkpoint: str | None = None
    previous_attempts: tuple[str, ...] = ()
    validate_every: int = 2000
    validation_limit: int | None = None
    checkpoint_every_seconds: float = 60.0
    temperature: float = 2.0
    threads: int = 1
    micro_batch: int | None = None
    ranks: int = 1
    device: Device = Device.CPU
    window: int = 16_384


@dataclass(frozen=True)
class DatasetErrors:
    """Errors on one dataset: eV/atom and eV/Angstrom, mean absolute, beside "learns nothing"."""

    energy_mae: float
    force_mae: float
    null_energy_mae: float
    null_force_mae: float


@dataclass(frozen=True)
class TrainResult:
    """How a training ended.

    ``objective`` is the mean over datasets of the mean of (energy MAE / null, force MAE / null) on the
    validation split with EMA weights: 1 means nothing learned, 0 is perfect; None when diverged.
    """

    stop_reason: StopReason
    objective: float | None
    errors: dict[str, DatasetErrors]
    graphs: int
    steps: int
    parameters: int
    seconds: float
    graphs_per_second: float
    checkpoint: str | None
    digest: str | None
    message: str = ""
