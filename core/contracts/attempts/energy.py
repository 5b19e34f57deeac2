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
    """What an attempt used on all of its nodes, what they used while idle before it, and what is known of each node.

    Parameters
    ----------
    task, idle
        Of all nodes.
    nodes
        Of each node, by its name, all that was counted there since its accounts were opened.
    """

    task: EnergyUse
    idle: EnergyUse
    nodes: dict[str, EnergyUse]


def read_energy(folder: Path) -> tuple[NodeEnergy, ...]:
    """Return what the nodes of the attempt in ``folder`` left; a record that is damaged counts as none."""
    found = []
    for path in sorted((folder / ENERGY_FOLDER).glob("*.json")):
        try:
            found.append(read_record(NodeEnergy, path))
        except (OSError, IntegrityError):  # noqa: PERF203 - cut by a full disk
            continue
    return tuple(found)


def of_nodes(found: Sequence[NodeEnergy], nodes: int) -> AttemptEnergy | None:
    """Return the energy of an attempt on ``nodes`` nodes, of those that left a record; None: none did.

    Nodes that left none are taken to have used as much as the mean of the others, and the error bar grows by that.
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
