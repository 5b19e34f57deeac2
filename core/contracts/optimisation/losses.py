"""The available losses, built-in and from other installed packages, and the loss of each target.

A package adds one by an entry point of the group ``gfm_pipeline.losses``. Users write the name of the entry point in
``search.space.loss``; its value names a `LossDescription`. The engine imports the module of the description, so that
module should not import torch. The training program imports the function itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gfm_pipeline.core.contracts.extensions import Extensions, suggestion
from gfm_pipeline.core.errors import ConfigError

LOSS, WEIGHT, FINAL_WEIGHT = "loss", "weight", "final_weight"  # settings per target, or per target and dataset
ENTRY_POINTS = "gfm_pipeline.losses"
_MODULE = "gfm_pipeline.models.loss_functions"


@dataclass(frozen=True)
class LossDescription:
    """Facts about a loss, available without importing it.

    Parameters
    ----------
    function
        ``module:function``, which takes errors [rows, components], the natural logarithm of their scale [rows, 1], or
        None, and ``huber_delta``, and returns the loss of each row [rows].
    summary
        The loss in one line.
    paper
        Its publication.
    scaled
        Whether it needs the scale of errors, which training then learns: one number per target and dataset.
    homogeneous
        Whether doubled errors double the loss: the loss may then be computed before errors are converted to their
        units.
    """

    function: str
    summary: str
    paper: str = ""
    scaled: bool = False
    homogeneous: bool = False


L2_NORM = "l2-norm"

BUILT_IN: dict[str, LossDescription] = {
    L2_NORM: LossDescription(
        f"{_MODULE}:l2_norm",
        "the length of the error: absolute of a scalar, Euclidean of a vector, Frobenius's of a tensor",
        homogeneous=True,
    ),
    "l1": LossDescription(f"{_MODULE}:l1", "the mean absolute error of the components", homogeneous=True),
    "mse": LossDescription(f"{_MODULE}:mse", "the mean squared error of the components"),
    "l2": LossDescription(f"{_MODULE}:mse", "another name of mse"),
    "huber": LossDescription(
        f"{_MODULE}:huber",
        "squared below huber_delta and absolute above, with slope 1 there",
        "Huber, Ann. Math. Stat. 35, 73 (1964)",
    ),
    "nll": LossDescription(
        f"{_MODULE}:gaussian_nll",
        "the negative log-likelihood of a normal distribution around the prediction",
        "Nix, Weigend, ICNN (1994)",
        scaled=True,
    ),
    "crps": LossDescription(
        f"{_MODULE}:gaussian_crps",
        "the continuous ranked probability score of a normal distribution around the prediction",
        "Gneiting, Raftery, J. Am. Stat. Assoc. 102, 359 (2007)",
        scaled=True,
    ),
}

LOSSES = Extensions("loss", ENTRY_POINTS, LossDescription, BUILT_IN)


@dataclass(frozen=True)
class TargetLoss:
    """The loss of one target, for each dataset in order.

    Parameters
    ----------
    losses
        Names among `LOSSES`.
    weights, final_weights
        At the start and at the end of a training.
    """

    losses: tuple[str, ...]
    weights: tuple[float, ...]
    final_weights: tuple[float, ...]

    def weights_at(self, done: float) -> tuple[float, ...]:
        """Return the weights after the share ``done`` of a training."""
        if self.weights == self.final_weights:
            return self.weights
        pairs = zip(self.weights, self.final_weights, strict=True)
        return tuple(first + done * (last - first) for first, last in pairs)


def target_losses(
    datasets: Sequence[str],
    weights: Mapping[str, float],
    loss: str,
    chosen: Mapping[str, Mapping[str, str | float]],
) -> dict[str, TargetLoss]:
    """Return the loss of every target.

    Parameters
    ----------
    datasets
        In the order of the model's heads.
    weights
        By name of every trained target.
    loss
        The loss without another choice.
    chosen
        Chosen losses, weights and final weights, by ``TARGET`` or ``TARGET.DATASET``.

    Raises
    ------
    ConfigError
        When a choice names a target or a dataset that is not trained.
    """
    for what, values in chosen.items():
        for key in values:
            target, dot, dataset = key.partition(".")
            known: Sequence[str] = tuple(weights) if target not in weights else datasets
            if target not in weights or (dot and dataset not in datasets):
                missing = dataset if target in weights else target
                kind = "dataset" if target in weights else "target"
                raise ConfigError(
                    f"{what}.{key} is of the {kind} {missing!r}, which is not trained.", suggestion(missing, known)
                )

    def of(what: str, target: str, dataset: str, default: str | float) -> str | float:
        values = chosen.get(what, {})
        return values.get(f"{target}.{dataset}", values.get(target, default))

    found = {}
    for target, default in weights.items():
        first = tuple(float(of(WEIGHT, target, d, default)) for d in datasets)
        found[target] = TargetLoss(
            tuple(str(of(LOSS, target, d, loss)) for d in datasets),
            first,
            tuple(float(of(FINAL_WEIGHT, target, d, w)) for d, w in zip(datasets, first, strict=True)),
        )
    return found
