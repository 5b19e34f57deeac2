"""Size classes: tasks of one shape, started in one way, by one Parsl executor."""

from __future__ import annotations

from dataclasses import dataclass

from gfm_pipeline.sites.launch import LaunchStrategy
from gfm_pipeline.sites.task_shape import TaskShape


@dataclass(frozen=True)
class SizeClass:
    """Tasks of one shape.

    Parameters
    ----------
    shape
        What one task takes.
    strategy
        How its ranks are started.
    per_node
        Tasks that share a node (1 for tasks of whole nodes).
    at_a_time
        Most of them at a time in one allocation: what is free beyond them is spare, or the batch system allows no
        more launches. None: as many as fit.
    group
        Most tasks of one launch, for those that share launches; 1 for all others.
    launches
        Most launches of them at a time in one allocation; None: as many as fit.
    """

    shape: TaskShape
    strategy: LaunchStrategy
    per_node: int = 1
    at_a_time: int | None = None
    group: int = 1
    launches: int | None = None

    @property
    def label(self) -> str:
        """Name of the Parsl executor: equal for sizes that one can run."""
        shape = self.shape
        if self.strategy is LaunchStrategy.GROUP:
            return "shared-launches"
        if self.whole:
            return f"{shape.nodes}-nodes-{shape.ranks_per_node}-ranks"
        rank = f"{shape.gpus_per_rank}-gpus-{shape.cores_per_rank}-cores"
        return f"{self.per_node}-a-node-{shape.ranks_per_node}-ranks-{rank}"

    @property
    def whole(self) -> bool:
        """Whether tasks are placed on nodes by name; the others take a slot of the worker pools."""
        return self.strategy is not LaunchStrategy.SPAWN

    def nodes_of(self, tasks: int) -> int:
        """Return how many nodes ``tasks`` tasks take."""
        return self.shape.nodes * tasks if self.shape.nodes else -(-tasks // self.per_node)

    def capacity(self, nodes: int) -> int:
        """Return how many tasks fit on ``nodes`` nodes at a time."""
        fit = nodes // self.shape.nodes if self.shape.nodes else nodes * self.per_node
        return fit if self.at_a_time is None else min(fit, self.at_a_time)
