"""Events of the nodes of a campaign: when they are held, and their counted energy."""

from __future__ import annotations

from dataclasses import dataclass

from gfm_pipeline.core.contracts.energy import EnergyUse


@dataclass(frozen=True)
class NodesHeld:
    """The nodes of a block are the campaign's; ``since``: Unix seconds, where they have been for a while already."""

    block: str
    nodes: int
    since: float | None = None


@dataclass(frozen=True)
class NodesReleased:
    """They are not any more."""

    block: str


@dataclass(frozen=True)
class NodesMeasured:
    """What a driver's nodes used in all, by their counters, whoever moved them; ``idle``: what no task was told of."""

    used: EnergyUse
    idle: EnergyUse | None = None
