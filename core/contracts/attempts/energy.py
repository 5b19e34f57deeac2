"""Energy of an attempt, combined from the records of its nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gfm_pipeline.core.contracts.energy import ENERGY_FOLDER, EnergyLabel, EnergyUse, NodeEnergy, total
from gfm_pipeline.core.errors import IntegrityError
from gfm_pipeline.core.records import read_record


@dataclass(frozen=True)
class AttemptEnergy:
    """Energy that an attempt used, energy that its nodes used while idle before it, and the accounts of each node.

    Parameters
    ----------
    task, idle
        Of all nodes.
    nodes
        By name of a node, all energy counted there since its accounts were opened.
    """

    task: EnergyUse
    idle: EnergyUse
    nodes: dict[str, EnergyUse]


def read_energy(folder: Path) -> tuple[NodeEnergy, ...]:
    """Return the records of the nodes of the attempt in ``folder``; a damaged record counts as missing."""
    found = []
    for path in sorted((folder / ENERGY_FOLDER).glob("*.json")):
        try:
            found.append(read_record(NodeEnergy, path))
        except (OSError, IntegrityError):  # noqa: PERF203 - cut by a full disk
            continue
    return tuple(found)


def of_nodes(found: Sequence[NodeEnergy], nodes: int) -> AttemptEnergy | None:
    """Return the energy of an attempt on ``nodes`` nodes from the records that exist; None without any record.

    Each node without a record counts with the mean of the others, and the error bar grows by that amount.
    """
    task = total(one.task for one in found)
    idle = total(one.idle for one in found)
    if task is None or idle is None:
        return None
    missing = nodes - len(found)
    if missing > 0:
        guess = task.joules / len(found) * missing
        seconds = task.node_seconds / len(found) * missing
        task = replace(
            task,
            joules=task.joules + guess,
            error=(task.error or 0.0) + guess,
            label=max(task.label, EnergyLabel.ATTRIBUTED, key=list(EnergyLabel).index),
            node_seconds=task.node_seconds + seconds,
        )
    return AttemptEnergy(task, idle, {one.node: one.all for one in found})
