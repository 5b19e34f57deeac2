"""Learning rate: warm-up, then the factor of a schedule, and a cosine to zero once the end is known.

Warm-up-stable-decay (Hu et al., MiniCPM, arXiv 2404.06395) keeps the rate constant while the length of the training is
open, so that candidates are comparable at every budget. Convergence decays the rate of every schedule.
`gfm_pipeline.core.contracts.optimisation.schedules` declares the schedules.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from gfm_pipeline.core.contracts.extensions import imported
from gfm_pipeline.core.contracts.optimisation.schedules import SCHEDULES
from gfm_pipeline.core.contracts.optimisation.settings import OptimiserSettings
from gfm_pipeline.core.errors import ConfigError
from gfm_pipeline.core.strenum import StrEnum


class Phase(StrEnum):
    """The phase of a model within its schedule."""

    STABLE = "stable"
    ANNEAL = "anneal"
    DONE = "done"


@dataclass(frozen=True)
class Anneal:
    """The last phase: from ``start`` to ``end`` graphs seen."""

    start: int
    end: int


def anneal_after(graphs: int, fraction: float) -> Anneal:
    """Return the anneal phase that begins now and lasts ``fraction`` of the graphs seen so far (at least one)."""
    return Anneal(graphs, graphs + max(1, round(fraction * graphs)))


def learning_rate(base: float, step: int, warmup: int, graphs: int, anneal: Anneal | None) -> float:
    """Return the learning rate of one optimiser step.

    Parameters
    ----------
    base
        Rate of the stable phase.
    step
        Number of the step, from 0.
    warmup
        Steps of linear warm-up.
    graphs
        Graphs seen before this step.
    anneal
        The anneal phase once it has begun.
    """
    rate = base * min(1.0, (step + 1) / max(1, warmup))
    if anneal is None:
        return rate
    done = min(1.0, max(0.0, (graphs - anneal.start) / (anneal.end - anneal.start)))
    return rate * 0.5 * (1.0 + math.cos(math.pi * done))


@dataclass(frozen=True)
class Progress:
    """The input of a schedule.

    Parameters
    ----------
    graphs
        Seen in the model's life.
    horizon
        Length of the schedule in graphs; None: not known.
    memory
        Memory of the schedule between validations, by name; empty at first. Checkpoints store it.
    """

    graphs: int
    horizon: int | None = None
    memory: Mapping[str, float] = field(default_factory=dict)

    @property
    def done(self) -> float:
        """Completed share of the horizon, 0 to 1; 0 when not known."""
        return min(1.0, self.graphs / self.horizon) if self.horizon else 0.0


class Schedule:
    """Base of every schedule: the factor of the learning rate between warm-up and annealing.

    Parameters
    ----------
    settings
        Settings of the training.
    """

    def __init__(self, settings: OptimiserSettings) -> None:
        self.settings = settings

    def share(self, progress: Progress) -> float:  # noqa: ARG002 - the constant needs nothing
        """Return the factor of the learning rate of the next step."""
        return 1.0

    def validated(self, memory: Mapping[str, float], objective: float) -> Mapping[str, float]:  # noqa: ARG002
        """Return the schedule's memory after a validation."""
        return memory


class WarmupStableDecay(Schedule):
    """Constant after the warm-up."""


class Cosine(Schedule):
    """Half a cosine from the learning rate to ``final_rate`` times it, over the horizon."""

    def share(self, progress: Progress) -> float:
        """See `Schedule.share`."""
        last = self.settings.final_rate
        return last + (1.0 - last) * 0.5 * (1.0 + math.cos(math.pi * progress.done))


class ReduceOnPlateau(Schedule):
    """Multiplies the rate by ``plateau_factor`` after ``plateau_patience`` validations without a new best."""

    def share(self, progress: Progress) -> float:
        """See `Schedule.share`."""
        return max(self.settings.final_rate, progress.memory.get("share", 1.0))

    def validated(self, memory: Mapping[str, float], objective: float) -> Mapping[str, float]:
        """See `Schedule.validated`."""
        share, since = memory.get("share", 1.0), memory.get("since", 0.0) + 1
        best = memory.get("best", math.inf)
        if objective < best:
            best, since = objective, 0.0
        if since >= self.settings.plateau_patience:
            share, since = share * self.settings.plateau_factor, 0.0
        return {"share": share, "since": since, "best": best}


def build_schedule(settings: OptimiserSettings) -> Schedule:
    """Return the schedule that the settings name.

    Raises
    ------
    ConfigError
        When no schedule has that name, or its class cannot be imported or is no `Schedule`.
    """
    where = SCHEDULES.describe(settings.schedule).module
    found = imported(f"Schedule {settings.schedule!r}", where)
    if not (isinstance(found, type) and issubclass(found, Schedule)):
        raise ConfigError(f"Schedule {settings.schedule!r}: {where} is no Schedule.", "Correct its description.")
    return found(settings)
