"""How to start the ranks of a task: launch lines from a site's templates, and the variables of each rank.

Everything here is a pure function of the site file. The driver writes a `RankFile` into the attempt's folder and starts
the launch line. `gfm_pipeline.apps.runtime.rank` and `gfm_pipeline.apps.runtime.spawn` read the file, once per rank or
once per node.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from gfm_pipeline.core.contracts.attempts.launch import DeviceSelection, RankFile
from gfm_pipeline.core.errors import ConfigError
from gfm_pipeline.core.strenum import StrEnum
from gfm_pipeline.sites.schema import SiteModel
from gfm_pipeline.sites.task_shape import RankBinding, TaskShape, node_layout, slots_per_node

LOOPBACK = "127.0.0.1"
LONGEST_ARGUMENT = 128 * 1024 - 8  # bytes; Linux's limit minus room for the text before the names


class LaunchStrategy(StrEnum):
    """Ways to start the ranks of a task."""

    SPAWN = "spawn"  # on one node, by a Parsl worker on that node
    STEP = "step"  # over whole nodes, one launch line per task
    GROUP = "group"  # many tasks in one launch line, each with a range of ranks


def launch_line(site: SiteModel, shape: TaskShape, nodes: Sequence[str]) -> list[str]:
    """Return the arguments that start a task's ranks on ``nodes``; the caller appends the program.

    Parameters
    ----------
    site
        The machine.
    shape
        Shape of the task; whole nodes.
    nodes
        Names of the nodes, in the order of the allocation.

    Raises
    ------
    ConfigError
        When the site has no launch line, the shape does not fit, or the number of names is wrong.
    """
    if not site.launch.template:
        raise ConfigError(f"Site {site.name} has no launch line for tasks over whole nodes.", "Set launch.template.")
    if shape.nodes < 1 or len(nodes) != shape.nodes:
        raise ConfigError(f"A task of {shape.nodes} nodes cannot be launched on {len(nodes)}.")
    _need_cores(site, site.launch.template, "{cores_per_rank}")
    layout = node_layout(site, shape)
    values = {
        "nodes": str(shape.nodes),
        "ranks": str(shape.ranks),
        "ranks_per_node": str(shape.ranks_per_node),
        "cores_per_rank": str(shape.cores_per_rank or 1),
        "gpus_per_node": str(shape.ranks_per_node * shape.gpus_per_rank),
        "nodelist": nodelist(site, nodes),
        "core_list": ":".join(place.cores for place in layout),
    }
    return _filled(site.launch.template, values)


def pool_line(site: SiteModel, nodes: Sequence[str] | int) -> list[str]:
    """Return the arguments that start one Parsl worker pool on each of ``nodes``; the caller appends the command.

    A number instead of names means all nodes of a job that has not begun; arguments that name nodes are then left out.
    """
    template = list(site.launch.pool_template)
    if not template:
        raise ConfigError(f"Site {site.name} has no launch line for worker pools.", "Set launch.pool_template.")
    if not isinstance(nodes, int):
        return _filled(template, _of_pools(site, template, len(nodes)) | {"nodelist": nodelist(site, nodes)})
    unnamed: list[str] = []
    for argument in template:
        if "{nodelist}" not in argument:
            unnamed.append(argument)
        elif argument == "{nodelist}":  # the preceding option has its value in this argument
            unnamed.pop()
    return _filled(unnamed, _of_pools(site, template, nodes))


def _of_pools(site: SiteModel, template: Sequence[str], nodes: int) -> dict[str, str]:
    _need_cores(site, template, "{cores_per_node}")
    return {"nodes": str(nodes), "cores_per_node": str(site.node.usable_threads)}


def _need_cores(site: SiteModel, template: Sequence[str], placeholder: str) -> None:
    """Refuse a template with cores on a site that does not state the number of cores."""
    if not site.node.usable_threads and any(placeholder in argument for argument in template):
        raise ConfigError(
            f"Site {site.name} does not say how many cores a node has.", "Set node.cores in its file or an overlay."
        )


def _filled(template: Sequence[str], values: dict[str, str]) -> list[str]:
    """Return a template with its placeholders filled; the schema excludes unknown placeholders."""
    return [re.sub(r"\{(\w+)\}", lambda match: values[match[1]], argument) for argument in template]


def nodelist(site: SiteModel, nodes: Sequence[str]) -> str:
    """Return the names of nodes in the form of the site's launcher.

    Raises
    ------
    ConfigError
        When the list is too long for a command line.
    """
    system = site.scheduler.system
    text = ",".join(nodes) if system is None else system.nodelist(nodes)
    if len(text) >= LONGEST_ARGUMENT:
        raise ConfigError(
            f"The names of {len(nodes):,} nodes do not fit one argument of a launch line.", "Use fewer nodes a task."
        )
    return text


def rank_file(
    site: SiteModel,
    shape: TaskShape,
    nodes: Sequence[str],
    port: int,
    *,
    wrapper_timeout_seconds: float,
    strategy: LaunchStrategy | None = None,
    slot: int = 0,
) -> RankFile:
    """Return the record for the ranks of a task.

    Parameters
    ----------
    site, shape
        The machine and the task's shape.
    nodes
        Names of its nodes in the order of the allocation; empty for a task spawned on one node.
    port
        Port where its ranks meet; unique among the tasks that share rank 0's node.
    wrapper_timeout_seconds
        Longest silence of the wrapper.
    strategy
        Way to start the task; by default it is spawned without ``nodes``, and a step with ``nodes``.
    slot
        Its part of the node, for a task that shares a node.

    Raises
    ------
    ConfigError
        When a node cannot hold the shape.
    """
    how = strategy or (LaunchStrategy.STEP if nodes else LaunchStrategy.SPAWN)
    launch, gpu = site.launch, site.gpu
    layout = node_layout(site, shape, slot)
    cores = _cores(layout) if launch.bind_cores else ()
    spawned = how is LaunchStrategy.SPAWN
    unset = list(gpu.unset)
    if spawned:  # with variables of the pilot's own step, each task would take itself for a rank of that step
        unset += [*launch.scrub, launch.rank_variable, launch.local_rank_variable]
    return RankFile(
        ranks=shape.ranks,
        ranks_per_node=shape.ranks_per_node,
        nodes=() if spawned else tuple(nodes),
        master_address=LOOPBACK if spawned else _address(site, nodes[0]),
        master_port=port,
        visible_variable=gpu.visible_variable if shape.gpus_per_rank else None,
        rank_gpus=tuple(place.gpu for place in layout if place.gpu is not None),
        rank_cores=cores,
        bind=bool(cores) and (spawned or not launcher_binds(site)),
        device=DeviceSelection.RANK if spawned else launch.device,
        unset=tuple(dict.fromkeys(unset)),
        exports=task_environment(site, max(1, shape.nodes)),
        rank_variable=launch.rank_variable,
        local_rank_variable=launch.local_rank_variable,
        wrapper_timeout_seconds=wrapper_timeout_seconds,
        cancel=step_cancel(site) if how is LaunchStrategy.STEP else (),
    )


def step_cancel(site: SiteModel) -> tuple[str, ...]:
    """Return the command that ends a launch on all nodes (``{step}`` is its number); () when there is none."""
    return () if site.scheduler.system is None else site.scheduler.system.step_cancel


def unanswered(site: SiteModel) -> str:
    """Return a regular expression for the message of a launch line that the batch system did not answer.

    Empty when no such message is known.
    """
    return "" if site.scheduler.system is None else site.scheduler.system.unanswered


def _address(site: SiteModel, node: str) -> str:
    """Return the address of ``node`` for ranks on other nodes; batch systems may add their own domain to names."""
    suffix = site.launch.address_suffix
    return node.partition(".")[0] + suffix if suffix else node


def _cores(layout: Sequence[RankBinding]) -> tuple[str, ...]:
    """Return the cores of each local rank; nothing when the site does not list cores."""
    return tuple(place.cores for place in layout) if all(place.cores for place in layout) else ()


def launcher_binds(site: SiteModel) -> bool:
    """Return whether the launch line itself binds ranks to cores."""
    text = " ".join(site.launch.template)
    return "--cpu-bind" in text and not re.search(r"--cpu-bind[= ](?:quiet,|verbose,|q,|v,)?none", text)


def task_environment(site: SiteModel, nodes: int) -> dict[str, str]:
    """Return the variables set for a task over ``nodes`` nodes.

    Variables for the number of nodes take precedence over common variables, and the current profile over both.
    """
    found = dict(site.environment)
    for sized in site.sized_environment:
        if sized.min_nodes <= nodes <= (sized.max_nodes or nodes):
            found |= sized.exports
    return found | site.profiles[site.profile].exports


def _ranks_of_a_node(site: SiteModel, shape: TaskShape) -> int:
    """Return the ranks of a full node: one per GPU; without GPUs, as many as a small task's cores allow."""
    if site.node.gpus:
        return site.node.gpus
    return shape.ranks_per_node if shape.nodes else max(1, slots_per_node(site, shape)) * shape.ranks_per_node


def group_ranges(site: SiteModel, shape: TaskShape, tasks: int) -> tuple[range, ...]:
    """Return the ranks of each of ``tasks`` tasks of one shape within a single launch of full nodes.

    Tasks over whole nodes get consecutive full nodes. Small tasks fill a node before the next one, and no task spans
    two nodes. Remaining ranks have no task.

    Raises
    ------
    ConfigError
        When a node cannot hold the shape.
    """
    a_node = _ranks_of_a_node(site, shape)
    if shape.nodes:
        if shape.ranks_per_node != a_node:
            raise ConfigError(f"Tasks of one launch fill their nodes: {a_node} ranks each, not {shape.ranks_per_node}.")
        return tuple(range(i * shape.ranks, (i + 1) * shape.ranks) for i in range(tasks))
    if shape.ranks_per_node > a_node:
        raise ConfigError(f"A node of {site.name} has {a_node} ranks, a task of {shape.ranks_per_node} does not fit.")
    each = a_node // shape.ranks_per_node
    starts = [(i // each) * a_node + (i % each) * shape.ranks_per_node for i in range(tasks)]
    return tuple(range(start, start + shape.ranks_per_node) for start in starts)


def group_shape(site: SiteModel, shape: TaskShape, tasks: int) -> TaskShape:
    """Return the shape of the single launch that holds ``tasks`` tasks (at least one) of one shape: full nodes."""
    a_node = _ranks_of_a_node(site, shape)
    nodes = -(-group_ranges(site, shape, tasks)[-1].stop // a_node)
    return TaskShape(nodes, a_node, shape.gpus_per_rank, shape.cores_per_rank)


def group_rank_files(
    site: SiteModel,
    shape: TaskShape,
    tasks: int,
    nodes: Sequence[str],
    ports: Sequence[int],
    *,
    wrapper_timeout_seconds: float,
) -> tuple[RankFile, ...]:
    """Return the records for the ranks of each task of a group; ``ports`` has one port per task.

    Raises
    ------
    ConfigError
        When the nodes cannot hold the tasks.
    """
    ranges = group_ranges(site, shape, tasks)
    a_node = _ranks_of_a_node(site, shape)
    if ranges and ranges[-1].stop > a_node * len(nodes):
        raise ConfigError(f"{tasks} tasks of {shape.ranks} ranks do not fit on {len(nodes)} nodes of {site.name}.")
    found = []
    by_slot: dict[int, RankFile] = {}  # tasks in the same slot of a node differ only in their nodes and ports
    for ranks, port in zip(ranges, ports, strict=True):
        mine = tuple(nodes[ranks.start // a_node : -(-ranks.stop // a_node)])
        slot = 0 if shape.nodes else (ranks.start % a_node) // shape.ranks_per_node
        if slot not in by_slot:
            by_slot[slot] = rank_file(
                site,
                shape,
                mine,
                port,
                wrapper_timeout_seconds=wrapper_timeout_seconds,
                strategy=LaunchStrategy.GROUP,
                slot=slot,
            )
        # Tasks of one node meet on it.
        address = mine[0] + site.launch.address_suffix if shape.nodes > 1 else LOOPBACK
        found.append(replace(by_slot[slot], nodes=mine, master_address=address, master_port=port))
    return tuple(found)
