"""The resources of one task on a site's nodes: its ranks, and the GPU and cores of each rank.

Pure functions of the site file: the same shape always gets the same layout, on every node.
"""

from __future__ import annotations

from dataclasses import dataclass

from gfm_pipeline.core.errors import ConfigError
from gfm_pipeline.sites.cores import format_cores, parse_cores
from gfm_pipeline.sites.schema import SiteModel


@dataclass(frozen=True)
class TaskShape:
    """The resources of one task.

    Parameters
    ----------
    nodes
        Whole nodes; 0: the task shares a node with others.
    ranks_per_node
        Processes on each node, at least 1; of the whole task when ``nodes`` is 0.
    gpus_per_rank
        0 or 1.
    cores_per_rank
        Hardware threads as the batch system counts them; 0: left to the system.
    """

    nodes: int
    ranks_per_node: int
    gpus_per_rank: int
    cores_per_rank: int

    @property
    def ranks(self) -> int:
        """Processes of the whole task."""
        return max(1, self.nodes) * self.ranks_per_node

    @property
    def gpus(self) -> int:
        """GPUs of the whole task."""
        return self.ranks * self.gpus_per_rank


@dataclass(frozen=True)
class RankBinding:
    """The place of one local rank: the number of its GPU on the node, and its cores ('': the system's choice)."""

    gpu: int | None
    cores: str


def default_shape(site: SiteModel, nodes: int, ranks_per_node: int | None = None) -> TaskShape:
    """Return the shape of a task of ``nodes`` nodes: one rank per GPU, or one per node without GPUs.

    With ``nodes`` 0 the task is one rank on one GPU, or on one core of a site without GPUs.
    """
    node = site.node
    if node.gpus:
        ranks = ranks_per_node or (node.gpus if nodes else 1)
        return TaskShape(nodes, ranks, 1, cores_beside_gpu(site))
    if node.cores == "auto":
        return TaskShape(nodes, ranks_per_node or 1, 0, 0)
    if nodes:
        ranks = ranks_per_node or 1
        return TaskShape(nodes, ranks, 0, _equal_part(site, ranks))
    return TaskShape(0, ranks_per_node or 1, 0, site.threads_per_task)


def host_shape(site: SiteModel, cores: int | None = None) -> TaskShape:
    """Return the shape of a task that shares a node and uses no GPU: one rank on ``cores`` cores."""
    if site.node.cores == "auto":
        return TaskShape(0, 1, 0, 0)
    return TaskShape(0, 1, 0, cores or site.threads_per_task)


def cores_beside_gpu(site: SiteModel) -> int:
    """Return the number of hardware threads per GPU: as listed, or an equal share; 0 when not known."""
    node = site.node
    if node.gpu_cores:
        return min(len(parse_cores(text)) for text in node.gpu_cores)
    return _equal_part(site, node.gpus) if node.gpus else 0


def _equal_part(site: SiteModel, parts: int) -> int:
    """Return the hardware threads of an equal share of a node, in whole cores."""
    return site.node.usable_cores // parts * site.node.threads_per_core


def misfit(site: SiteModel, shape: TaskShape) -> str | None:
    """Return why a node of ``site`` cannot hold its part of ``shape``, as a clause, or None when it can."""
    node = site.node
    gpus = shape.ranks_per_node * shape.gpus_per_rank
    if gpus > node.gpus:
        what = f"{node.gpus} GPUs" if node.gpus else "no GPUs"
        return f"{shape.ranks_per_node} ranks per node with a GPU each do not fit, a node of {site.name} has {what}"
    cores = shape.ranks_per_node * shape.cores_per_rank
    threads = site.node.usable_threads
    if threads and cores > threads:
        return (
            f"{shape.ranks_per_node} ranks per node with {shape.cores_per_rank} cores each do not fit, "
            f"a node of {site.name} has {threads} for tasks"
        )
    if not shape.gpus_per_rank and threads and shape.ranks_per_node > threads:
        return f"{shape.ranks_per_node} ranks per node do not fit, a node of {site.name} has {threads} cores for tasks"
    return None


def threads_of(site: SiteModel, shape: TaskShape) -> int:
    """Return the threads of one rank: one per core, or the site's setting when the system assigns cores."""
    if not shape.cores_per_rank:
        return site.threads_per_task
    return max(1, shape.cores_per_rank // site.node.threads_per_core)


def slots_per_node(site: SiteModel, shape: TaskShape) -> int:
    """Return how many tasks of a shape that shares nodes fit on one node; 0 when the site does not state it."""
    if shape.gpus_per_rank:
        return site.node.gpus // shape.ranks_per_node
    if not shape.cores_per_rank:
        return 0
    return site.node.usable_threads // (shape.ranks_per_node * shape.cores_per_rank)


def node_layout(site: SiteModel, shape: TaskShape, slot: int = 0) -> tuple[RankBinding, ...]:
    """Return the place of each local rank of a task on one of its nodes.

    Parameters
    ----------
    site
        The machine.
    shape
        Shape of the task.
    slot
        Part of the node for a task that shares it; 0 for whole nodes.

    Raises
    ------
    ConfigError
        When a node cannot hold the shape, or has no such slot.
    """
    if (reason := misfit(site, shape)) is not None:
        raise ConfigError(f"This shape cannot run: {reason}.")
    slots = 1 if shape.nodes else slots_per_node(site, shape)
    if slot < 0 or (slots and slot >= slots):
        raise ConfigError(f"A node of {site.name} has {slots} slots for such tasks, there is no slot {slot}.")
    first = slot * shape.ranks_per_node
    if shape.gpus_per_rank:
        order = site.node.rank_gpus or list(range(site.node.gpus))
        return tuple(_beside(site, shape, gpu) for gpu in order[first : first + shape.ranks_per_node])
    usable = _usable(site)
    share = shape.cores_per_rank
    if not share or not usable:
        return (RankBinding(None, ""),) * shape.ranks_per_node
    return tuple(
        RankBinding(None, format_cores(usable[rank * share : (rank + 1) * share]))
        for rank in range(first, first + shape.ranks_per_node)
    )


def _beside(site: SiteModel, shape: TaskShape, gpu: int) -> RankBinding:
    """Return a GPU and its nearby cores: those the site lists, or an equal share of all."""
    node = site.node
    if node.gpu_cores:
        listed = list(parse_cores(node.gpu_cores[gpu]))
    else:
        # The equal share of the rank with this GPU, so that shares do not overlap.
        order = node.rank_gpus or list(range(node.gpus))
        usable, share, place = _usable(site), cores_beside_gpu(site), order.index(gpu)
        listed = list(usable[place * share : (place + 1) * share])
    required = shape.cores_per_rank
    return RankBinding(gpu, format_cores(listed[:required] if required else listed))


def _usable(site: SiteModel) -> list[int]:
    """Return the hardware threads for tasks, grouped by core; nothing when cores are not known."""
    node = site.node
    if node.cores == "auto":
        return []
    cores = [core for core in range(node.cores) if core not in node.reserved_cores]
    return [core + sibling * node.cores for core in cores for sibling in range(node.threads_per_core)]
