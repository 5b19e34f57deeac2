"""Learning rate: warm-up, constant, and a cosine to zero at the end (WSD).

Warm-up-stable-decay (Hu et al., MiniCPM, arXiv 2404.06395) keeps the rate constant while it is open how long a
model trains, so that candidates are comparable at every budget, and decays only once the end is known.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from gfm_pipeline.core.strenum import StrEnum


class Phase(StrEnum):
    """Where in its schedule a model is."""

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
