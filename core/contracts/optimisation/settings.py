"""The hyperparameters of a training other than the model's: batches, optimiser, schedule and loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gfm_pipeline.core.contracts.hyperparameters import Group, Hyperparameter, ValueKind, declared
from gfm_pipeline.core.contracts.optimisation.losses import FINAL_WEIGHT, L2_NORM, LOSS, LOSSES, WEIGHT
from gfm_pipeline.core.contracts.optimisation.optimisers import ADAMW, OPTIMISERS
from gfm_pipeline.core.contracts.optimisation.schedules import SCHEDULES, WSD
from gfm_pipeline.core.strenum import StrEnum

_LOSS_HELP = "What the errors of a target are turned into, where nothing else is chosen for it."


class Weighting(StrEnum):
    """What becomes of the weights of targets."""

    FIXED = "fixed"
    LEARNED = "learned"  # by the size of each target's loss, as in homoscedastic uncertainty weighting


class Precision(StrEnum):
    """What trainings compute in; predictions choose for themselves."""

    FP32 = "fp32"
    FP64 = "fp64"
    TF32 = "tf32"  # products of float32 matrices with ten bits of mantissa, on GPUs that support this
    BF16 = "bf16"  # networks in bfloat16 by autocast; weights, sums over atoms, losses and validations in float32


@dataclass(frozen=True)
class OptimiserSettings:
    """How a model is trained: optimiser, schedule and loss; each declared field is a hyperparameter.

    ``force_weight`` is the weight of the force loss against the per-atom energy loss, both in units of the training
    set's force RMS. ``warmup`` counts optimiser steps. ``losses``, ``weights`` and ``final_weights`` belong to single
    targets, by ``TARGET``, or by ``TARGET.DATASET`` when a dataset has its own.
    """

    learning_rate: float = field(
        default=1e-3,
        metadata=declared(
            ValueKind.REAL,
            "Learning rate at the plateau of the schedule.",
            Group.OPTIMISER,
            low=0,
            open_low=True,
            high=1,
            search=(1e-4, 1e-2),
            log=True,
        ),
    )
    batch_size: int = field(
        default=16,
        metadata=declared(
            ValueKind.WHOLE, "Graphs per optimiser step.", Group.OPTIMISER, low=1, high=65536, search=[16, 32]
        ),
    )
    force_weight: float = field(
        default=1.0,
        metadata=declared(
            ValueKind.REAL,
            "Weight of the force loss against the energy loss.",
            Group.LOSS,
            low=0,
            open_low=True,
            high=1e6,
            search=(0.3, 3),
            log=True,
            former=((1, 30),),
        ),
    )
    weight_decay: float = field(
        default=1e-3,
        metadata=declared(
            ValueKind.REAL,
            "Decoupled weight decay, as a share of the learning rate.",
            Group.OPTIMISER,
            low=0,
            high=1,
            search=1e-3,
        ),
    )
    ema_decay: float = field(
        default=0.99,
        metadata=declared(
            ValueKind.REAL,
            "Share of the old weights that the moving average keeps per thousandth of the steps so far: with 0.99 it "
            "reaches back over a tenth of a training, however long that is.",
            Group.OPTIMISER,
            low=0,
            high=1,
            open_high=True,
            search=0.99,
        ),
    )
    clip_norm: float = field(
        default=10.0,
        metadata=declared(
            ValueKind.REAL, "Largest norm of the gradient.", Group.OPTIMISER, low=0, open_low=True, high=1e9
        ),
    )
    warmup: int = field(
        default=50,
        metadata=declared(
            ValueKind.WHOLE,
            "Optimiser steps of linear warm-up of the learning rate.",
            Group.SCHEDULE,
            low=0,
            high=10**9,
        ),
    )
    optimiser: str = field(
        default=ADAMW,
        metadata=declared(
            ValueKind.NAME, "Optimiser that turns gradients into steps.", Group.OPTIMISER, registry=OPTIMISERS
        ),
    )
    momentum: float = field(
        default=0.9,
        metadata=declared(
            ValueKind.REAL,
            "Share of the old mean gradient that an optimiser keeps per step (beta 1 of AdamW).",
            Group.OPTIMISER,
            low=0,
            high=1,
            open_high=True,
        ),
    )
    beta2: float = field(
        default=0.999,
        metadata=declared(
            ValueKind.REAL,
            "Share of the old mean square of the gradient that AdamW keeps per step.",
            Group.OPTIMISER,
            low=0,
            high=1,
            open_high=True,
        ),
    )
    accumulation: int = field(
        default=1,
        metadata=declared(
            ValueKind.WHOLE,
            "Number of parts of a batch that are computed one after the other; their gradients are summed.",
            Group.OPTIMISER,
            low=1,
            high=65536,
        ),
    )
    schedule: str = field(
        default=WSD,
        metadata=declared(
            ValueKind.NAME, "How the learning rate changes after the warm-up.", Group.SCHEDULE, registry=SCHEDULES
        ),
    )
    final_rate: float = field(
        default=0.0,
        metadata=declared(
            ValueKind.REAL,
            "Learning rate at the end of cosine, and the least one of plateau, as a share of learning_rate.",
            Group.SCHEDULE,
            low=0,
            high=1,
        ),
    )
    plateau_factor: float = field(
        default=0.5,
        metadata=declared(
            ValueKind.REAL,
            "Factor by which the schedule plateau lowers the learning rate.",
            Group.SCHEDULE,
            low=0,
            open_low=True,
            high=1,
            open_high=True,
        ),
    )
    plateau_patience: int = field(
        default=5,
        metadata=declared(
            ValueKind.WHOLE,
            "Validations without improvement after which the schedule plateau lowers the learning rate.",
            Group.SCHEDULE,
            low=1,
            high=10**6,
        ),
    )
    direct_share: float = field(
        default=0.0,
        metadata=declared(
            ValueKind.REAL,
            "Share of the budget, from the start, in which a head of its own learns the forces, without second "
            "derivatives; then forces are the gradient of the energy.",
            Group.SCHEDULE,
            low=0,
            high=1,
            open_high=True,
        ),
    )
    loss: str = field(default=L2_NORM, metadata=declared(ValueKind.NAME, _LOSS_HELP, Group.LOSS, registry=LOSSES))
    huber_delta: float = field(
        default=0.01,
        metadata=declared(
            ValueKind.REAL,
            "Error at which the loss huber turns from squared to absolute, in units of the target's scale.",
            Group.LOSS,
            low=0,
            open_low=True,
            high=1e6,
        ),
    )
    weighting: Weighting = field(
        default=Weighting.FIXED,
        metadata=declared(
            ValueKind.NAME,
            "Whether losses of targets are divided by what they are expected to be, which is learned along (Kendall, "
            "Gal, Cipolla, CVPR 2018).",
            Group.LOSS,
            choices=tuple(map(str, Weighting)),
        ),
    )
    precision: Precision = field(
        default=Precision.FP32,
        metadata=declared(
            ValueKind.NAME,
            "What training computes in: fp32, fp64, products of matrices in tf32, or networks in bf16 (autocast).",
            Group.OPTIMISER,
            choices=tuple(map(str, Precision)),
        ),
    )
    losses: dict[str, str] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    final_weights: dict[str, float] = field(default_factory=dict)

    @property
    def chosen(self) -> dict[str, Mapping[str, Any]]:
        """The choices for single targets."""
        return {LOSS: self.losses, WEIGHT: self.weights, FINAL_WEIGHT: self.final_weights}


# Hyperparameters of one target, or of one target in one dataset; in a candidate their name is NAME.TARGET[.DATASET].
PER_TARGET: Mapping[str, Hyperparameter] = {
    one.name: one
    for one in (
        Hyperparameter(LOSS, ValueKind.NAME, L2_NORM, "Loss of the target.", Group.LOSS, registry=LOSSES),
        Hyperparameter(
            WEIGHT,
            ValueKind.REAL,
            1.0,
            "Weight of its loss beside that of the energy.",
            Group.LOSS,
            low=0,
            high=1e6,
        ),
        Hyperparameter(
            FINAL_WEIGHT,
            ValueKind.REAL,
            1.0,
            "Weight at the end of the budget, which the weight goes to in a straight line.",
            Group.LOSS,
            low=0,
            high=1e6,
        ),
    )
}
FIELDS = {LOSS: "losses", WEIGHT: "weights", FINAL_WEIGHT: "final_weights"}  # of `OptimiserSettings`
