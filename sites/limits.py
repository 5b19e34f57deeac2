"""Limits of a site's queues: pure checks of a job; each refusal names the nearest allowed job."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from gfm_pipeline.core.strenum import StrEnum
from gfm_pipeline.sites.scheduler_schema import BinModel, QueueModel
from gfm_pipeline.sites.schema import SiteModel


class About(StrEnum):
    """The value to change after a refusal."""

    ACCOUNT = "account"
    QUEUE = "queue"
    NODES = "nodes"
    HOURS = "hours"


@dataclass(frozen=True)
class Refusal:
    """The reason to refuse a job, in one sentence, and the nearest allowed job."""

    about: About
    message: str
    hint: str


@dataclass(frozen=True)
class CheckedJob:
    """A job that a site accepts. ``bin`` is its range of sizes; ``warnings`` are sentences.

    ``hours`` is None without a limit.
    """

    nodes: int
    hours: float | None
    queue: str | None
    account: str | None
    bin: BinModel | None
    warnings: tuple[str, ...] = ()


def queue_name(site: SiteModel, queue: str | None = None) -> str | None:
    """Return the queue of a job: the requested one, the default, or the only one."""
    if queue is not None or site.scheduler.default_queue is not None:
        return queue or site.scheduler.default_queue
    return next(iter(site.scheduler.queues)) if len(site.scheduler.queues) == 1 else None


def bin_of(queue: QueueModel, nodes: int) -> BinModel | None:
    """Return the first range of sizes of a queue that contains ``nodes``, or None."""
    return next((b for b in queue.bins if b.min_nodes <= nodes <= b.max_nodes), None)


def largest(site: SiteModel, queue: str | None = None) -> int:
    """Return the largest number of nodes of one job."""
    name = queue_name(site, queue)
    if name not in site.scheduler.queues:
        return site.nodes
    return min(site.nodes, max(b.max_nodes for b in site.scheduler.queues[name].bins))


def check_job(
    site: SiteModel, queue: str | None, nodes: int, hours: float | None = None, account: str | None = None
) -> CheckedJob | Refusal:
    """Return the job as the site would run it, or the reason to refuse it.

    Parameters
    ----------
    site
        The machine.
    queue
        Its name in the site file; None: the default queue.
    nodes
        Number of nodes.
    hours
        Wall time; None: the longest for this number of nodes.
    account
        The charged project; None: the site's.
    """
    scheduler = site.scheduler
    name = queue_name(site, queue)
    if nodes > site.nodes:
        return Refusal(
            About.NODES,
            f"{site.name} has {_nodes(site.nodes)}, not {nodes:,}.",
            f"Ask for {_nodes(largest(site, queue))} or fewer.",
        )
    if scheduler.system is None:
        ignored = () if queue is None else (f"{site.name} has no batch system: queue {queue!r} means nothing here.",)
        return CheckedJob(nodes, hours, None, None, None, ignored)
    if name is None or name not in scheduler.queues:
        return _unknown_queue(site, queue)
    charged = account or scheduler.account
    if charged is None and scheduler.account_required:
        return Refusal(
            About.ACCOUNT,
            f"Jobs on {site.name} need an account that is charged.",
            f"Add --set site.scheduler.account=NAME, or put it into ~/.config/gfm-pipeline/sites/{site.name}.yaml.",
        )
    found = scheduler.queues[name]
    fit = bin_of(found, nodes)
    if fit is None:
        return _wrong_size(site, name, nodes)
    if hours is not None and hours > fit.max_hours:
        return _too_long(site, name, nodes, hours, fit)
    wall = fit.max_hours if hours is None else hours
    return CheckedJob(nodes, wall, name, charged, fit, _warnings(site, name, charged))


def _unknown_queue(site: SiteModel, queue: str | None) -> Refusal:
    names = list(site.scheduler.queues)
    known = f"Choose from: {', '.join(names)}."
    if queue is None:
        return Refusal(About.QUEUE, f"Site {site.name} has several queues and no default.", known)
    close = difflib.get_close_matches(queue, names, n=1, cutoff=0.4)
    hint = f"Did you mean {close[0]!r}? {known}" if close else known
    return Refusal(About.QUEUE, f"Site {site.name} knows no queue {queue!r}.", hint)


def _wrong_size(site: SiteModel, queue: str, nodes: int) -> Refusal:
    """Return the refusal of a size outside all ranges of the queue."""
    bins = [b for b in site.scheduler.queues[queue].bins if b.min_nodes <= site.nodes]
    edges = [edge for b in bins for edge in (b.min_nodes, min(b.max_nodes, site.nodes))]
    nearest = min(edges, key=lambda edge: (abs(edge - nodes), edge))
    most, least = max(edges), min(edges)
    limit = (
        f"at most {_nodes(most)}" if nodes > most else f"{_nodes(least)} or more" if nodes < least else "other sizes"
    )
    hint = f"Ask for {_nodes(nearest)}"
    return Refusal(
        About.NODES,
        f"Queue {queue} of {site.name} takes {limit}, not {nodes:,}.",
        _with_others(site, hint, queue, nodes, None) + ".",
    )


def _too_long(site: SiteModel, queue: str, nodes: int, hours: float, fit: BinModel) -> Refusal:
    """Return the refusal of a wall time, with the longest for this size and the nearest size that allows it."""
    most = min(fit.max_nodes, site.nodes)
    who = f"{_nodes(most)} or fewer" if fit.min_nodes == 1 else f"{fit.min_nodes:,} to {_nodes(most)}"
    if fit.min_nodes == most:
        who = _nodes(most)
    hint = f"Ask for {_hours(fit.max_hours)}"
    longer = [b for b in site.scheduler.queues[queue].bins if b.max_hours >= hours and b.min_nodes <= site.nodes]
    edges = [(b.min_nodes if b.min_nodes > nodes else min(b.max_nodes, site.nodes), b.max_hours) for b in longer]
    if edges:
        size, wall = min(edges, key=lambda edge: (abs(edge[0] - nodes), edge[0]))
        hint += f", or for {_nodes(size)} to get {_hours(wall)}"
    return Refusal(
        About.HOURS,
        f"{who[0].upper()}{who[1:]} get {_hours(fit.max_hours)} in queue {queue} of {site.name}, not {_hours(hours)}.",
        _with_others(site, hint, queue, nodes, hours) + ".",
    )


def _with_others(site: SiteModel, hint: str, queue: str, nodes: int, hours: float | None) -> str:
    """Add the queues that accept the job unchanged; queues that forbid chains only when no other accepts it."""
    fitting = {
        name: fit
        for name, other in site.scheduler.queues.items()
        if name != queue and (fit := bin_of(other, nodes)) and (hours is None or fit.max_hours >= hours)
    }
    chained = {name: fit for name, fit in fitting.items() if site.scheduler.queues[name].chaining}
    for name, fit in (chained or fitting).items():
        hint += f", or use queue {name} ({_nodes(nodes)}: {_hours(fit.max_hours)})"
    return hint


def _warnings(site: SiteModel, queue: str, account: str | None) -> tuple[str, ...]:
    """Return warnings about an allowed job."""
    found, suffix = site.scheduler.queues[queue], site.scheduler.account_suffix
    lines = []
    if account and suffix and not account.endswith(suffix):
        lines.append(f"Accounts on {site.name} end in {suffix}; {account} does not.")
    if not found.verified:
        lines.append(f"The limits of queue {queue} are not verified ({found.source}, {found.as_of}): check them.")
    if not found.chaining:
        lines.append(f"Queue {queue} forbids chains of jobs: what one job does not finish is yours to resume.")
    return tuple(lines)


def check_task(site: SiteModel, nodes: int, allocation: int) -> Refusal | None:
    """Return why a task over ``nodes`` whole nodes cannot run in an allocation, or None if it can."""
    if nodes <= allocation:
        return None
    return Refusal(
        About.NODES,
        f"A task of {_nodes(nodes)} does not fit an allocation of {allocation:,} on {site.name}.",
        f"Give the task {_nodes(allocation)} or fewer, or the allocation {_nodes(nodes)}.",
    )


def check_ranks(site: SiteModel, ranks_per_node: int) -> Refusal | None:
    """Return why a node's GPUs (without GPUs, its cores) cannot be shared evenly by the ranks, or None."""
    what, whole = ("GPUs", site.node.gpus) if site.node.gpus else ("cores", site.node.usable_cores)
    if not whole or whole % ranks_per_node == 0:
        return None
    possible = [n for n in range(1, whole + 1) if whole % n == 0]
    return Refusal(
        About.NODES,
        f"{ranks_per_node} ranks do not divide the {whole} {what} of a node of {site.name}.",
        f"Nearest: {_or(nearest(possible, ranks_per_node))}.",
    )


def nearest(possible: Sequence[int], wanted: int) -> list[int]:
    """Return the largest possible value below ``wanted`` and the smallest above it."""
    below, above = [n for n in possible if n < wanted], [n for n in possible if n > wanted]
    return ([max(below)] if below else []) + ([min(above)] if above else [])


def _or(values: Sequence[int]) -> str:
    return " or ".join(f"{value:,}" for value in values)


def counted(count: int, what: str) -> str:
    """Return ``1 node`` or ``1,024 nodes``."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def _nodes(count: int) -> str:
    return counted(count, "node")


def _hours(hours: float) -> str:
    return f"{hours:g} h"
