"""Events of the nodes of a campaign: when it holds them, and their counted energy."""

from __future__ import annotations

from dataclasses import dataclass

from gfm_pipeline.core.contracts.energy import EnergyUse


@dataclass(frozen=True)
class NodesHeld:
    """The campaign holds the nodes of a block; ``since``: Unix seconds, if the hold began earlier."""

    block: str
    nodes: int
    since: float | None = None


@dataclass(frozen=True)
class NodesReleased:
    """The campaign no longer holds the nodes of a block."""

    block: str


@dataclass(frozen=True)
class NodesMeasured:
    """Total energy of a driver's nodes by their counters, from all processes; ``idle``: the part outside of tasks."""

    used: EnergyUse
    idle: EnergyUse | None = None
