"""Demand of a stage: tasks that share nodes, or trainings over nodes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SharedDemand:
    """Tasks of one rank that share nodes.

    Parameters
    ----------
    tasks
        How many there may be at a time.
    cores
        Of each; None: the site's choice.
    gpu
        Whether each gets a GPU where the site has some and ``cores`` is None.
    """

    tasks: int
    cores: int | None = None
    gpu: bool = False


@dataclass(frozen=True)
class TrainingDemand:
    """Trainings, each on a part of a node or on whole nodes.

    Parameters
    ----------
    at_a_time
        How many should run at a time.
    counts
        Most trainings of each rung, in order; one entry for trainings without rungs.
    nodes
        Of each training, one entry per rung where they differ; None: decided from the allocation.
    ranks_per_node
        None: one per GPU, or one.
    fills
        Whether an automatic allocation has room for all of ``at_a_time``, and one left half empty is warned of.
    """

    at_a_time: int
    counts: tuple[int, ...]
    nodes: tuple[int, ...] | None = None
    ranks_per_node: int | None = None
    fills: bool = False


Demand = SharedDemand | TrainingDemand
