"""Demand of a stage: tasks that share nodes, or trainings over nodes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SharedDemand:
    """Tasks of one rank that share nodes.

    Parameters
    ----------
    tasks
        Largest number at a time.
    cores
        Cores per task; None: the site's choice.
    gpu
        Whether each task gets a GPU if the site has GPUs and ``cores`` is None.
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
        Number of trainings that should run at a time.
    counts
        Largest number of trainings per rung, in order; one entry for trainings without rungs.
    nodes
        Nodes per training, one entry per rung if they differ; None: derived from the allocation.
    ranks_per_node
        Ranks per node; None: one per GPU, or one.
    fills
        Whether an automatic allocation has room for all of ``at_a_time``, and a half-empty one gives a warning.
    """

    at_a_time: int
    counts: tuple[int, ...]
    nodes: tuple[int, ...] | None = None
    ranks_per_node: int | None = None
    fills: bool = False


Demand = SharedDemand | TrainingDemand
