"""Size classes: tasks of one shape, which one Parsl executor starts in one way."""

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
        Resources of one task.
    strategy
        How a task's ranks start.
    per_node
        Number of tasks that share a node (1 for tasks of whole nodes).
    at_a_time
        Largest number of tasks at a time in one allocation: further free nodes are spare, or the batch system allows no
        more launches. None: no limit but the nodes.
    group
        Largest number of tasks per shared launch; 1 for tasks that share no launch.
    launches
        Largest number of launches at a time in one allocation; None: no limit but the nodes.
    """

    shape: TaskShape
    strategy: LaunchStrategy
    per_node: int = 1
    at_a_time: int | None = None
    group: int = 1
    launches: int | None = None

    @property
    def label(self) -> str:
        """Name of the Parsl executor: equal for sizes that the same executor can run."""
        shape = self.shape
        if self.strategy is LaunchStrategy.GROUP:
            return "shared-launches"
        if self.whole:
            return f"{shape.nodes}-nodes-{shape.ranks_per_node}-ranks"
        rank = f"{shape.gpus_per_rank}-gpus-{shape.cores_per_rank}-cores"
        return f"{self.per_node}-a-node-{shape.ranks_per_node}-ranks-{rank}"

    @property
    def whole(self) -> bool:
        """Whether tasks get nodes by name; other tasks take a slot of the worker pools."""
        return self.strategy is not LaunchStrategy.SPAWN

    def nodes_of(self, tasks: int) -> int:
        """Return the number of nodes for ``tasks`` tasks."""
        return self.shape.nodes * tasks if self.shape.nodes else -(-tasks // self.per_node)

    def capacity(self, nodes: int) -> int:
        """Return how many tasks fit on ``nodes`` nodes at a time."""
        fit = nodes // self.shape.nodes if self.shape.nodes else nodes * self.per_node
        return fit if self.at_a_time is None else min(fit, self.at_a_time)
