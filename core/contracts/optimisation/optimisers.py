"""The available optimisers: built-in ones, and ones that other installed packages add.

A package adds one by an entry point of the group ``gfm_pipeline.optimisers``. Users write the name of the entry point
in ``search.space.optimiser``; its value names an `OptimiserDescription`. The engine imports the module of the
description, so that module should not import torch. The training program imports the class itself.
"""

from __future__ import annotations

from dataclasses import dataclass

from gfm_pipeline.core.contracts.extensions import Extensions

ENTRY_POINTS = "gfm_pipeline.optimisers"
_MODULES = "gfm_pipeline.apps.train.optimisers"


@dataclass(frozen=True)
class OptimiserDescription:
    """Facts about an optimiser, available without importing it.

    Parameters
    ----------
    module
        ``module:class``, a subclass of `gfm_pipeline.apps.train.optimisers.base.Optimiser`.
    summary
        The optimiser in one line.
    paper
        Its publication.
    reads
        The hyperparameters that it reads in addition to ``learning_rate`` and ``weight_decay``.
    """

    module: str
    summary: str
    paper: str
    reads: tuple[str, ...] = ()


ADAMW = "adamw"

BUILT_IN: dict[str, OptimiserDescription] = {
    ADAMW: OptimiserDescription(
        f"{_MODULES}.adamw:AdamW",
        "Adam with decoupled weight decay",
        "Loshchilov, Hutter, ICLR (2019)",
        ("momentum", "beta2"),
    ),
    "muon": OptimiserDescription(
        f"{_MODULES}.muon:Muon",
        "matrices by momentum made orthogonal, scaled to steps as large as AdamW's; all else by AdamW",
        "Jordan et al. (2024); Liu et al., arXiv:2502.16982 (2025)",
        ("momentum", "beta2"),
    ),
    "schedule-free-adamw": OptimiserDescription(
        f"{_MODULES}.schedule_free:ScheduleFreeAdamW",
        "AdamW that steps from an average of its path, which is what is validated and published",
        "Defazio et al., NeurIPS (2024)",
        ("momentum", "beta2", "warmup"),
    ),
    "sgd": OptimiserDescription(
        f"{_MODULES}.sgd:SGD",
        "gradient descent with momentum and decoupled weight decay",
        "Sutskever et al., ICML (2013)",
        ("momentum",),
    ),
}

OPTIMISERS = Extensions("optimiser", ENTRY_POINTS, OptimiserDescription, BUILT_IN)
