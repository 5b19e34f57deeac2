"""The available learning rate schedules: built-in ones, and ones that other installed packages add.

A package adds one by an entry point of the group ``gfm_pipeline.schedules``. Users write the name of the entry point in
``search.space.schedule``; its value names a `ScheduleDescription`. The engine imports the module of the description.
"""

from __future__ import annotations

from dataclasses import dataclass

from gfm_pipeline.core.contracts.extensions import Extensions

ENTRY_POINTS = "gfm_pipeline.schedules"
_MODULE = "gfm_pipeline.apps.train.schedule"


@dataclass(frozen=True)
class ScheduleDescription:
    """Facts about a schedule, available without importing it.

    Parameters
    ----------
    module
        ``module:class``, a subclass of `gfm_pipeline.apps.train.schedule.Schedule`.
    summary
        The schedule in one line.
    paper
        Its publication.
    reads
        The hyperparameters that it reads in addition to ``learning_rate`` and ``warmup``.
    """

    module: str
    summary: str
    paper: str = ""
    reads: tuple[str, ...] = ()


WSD = "warmup-stable-decay"

BUILT_IN: dict[str, ScheduleDescription] = {
    WSD: ScheduleDescription(
        f"{_MODULE}:WarmupStableDecay",
        "constant after the warm-up; convergence decays it to zero",
        "Hu et al., arXiv:2404.06395 (2024)",
    ),
    "cosine": ScheduleDescription(
        f"{_MODULE}:Cosine",
        "half a cosine over the whole budget",
        "Loshchilov, Hutter, ICLR (2017)",
        ("final_rate",),
    ),
    "plateau": ScheduleDescription(
        f"{_MODULE}:ReduceOnPlateau",
        "lowered whenever validations stop improving",
        reads=("plateau_factor", "plateau_patience", "final_rate"),
    ),
}

SCHEDULES = Extensions("schedule", ENTRY_POINTS, ScheduleDescription, BUILT_IN)
