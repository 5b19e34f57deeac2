"""The energy of a campaign's attempts and nodes, as this driver hears of it: counted, or by the site's power model."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gfm_pipeline.apps.energy.attempt_meter import this_node
from gfm_pipeline.apps.energy.node_accounts import NodeAccounts
from gfm_pipeline.apps.energy.node_meter import NodeMeter
from gfm_pipeline.campaign.node_events import NodesMeasured
from gfm_pipeline.core.contracts.attempts.energy import AttemptEnergy
from gfm_pipeline.core.contracts.energy import EnergyLabel, EnergyPlan, EnergyUse, total
from gfm_pipeline.core.errors import GFMError
from gfm_pipeline.execution.energy_plan import account_of
from gfm_pipeline.execution.size_class import SizeClass
from gfm_pipeline.sites.enums import DriverMode
from gfm_pipeline.sites.schema import SiteModel

NODE_MODEL, SLOT_MODEL = "node model", "core model"


@dataclass(frozen=True)
class Used:
    """What an attempt held and used; ``idle``: what its nodes used before, while no task ran on them."""

    node_seconds: float
    energy: EnergyUse | None
    idle: EnergyUse | None


def held(size: SizeClass | None, nodes: Sequence[str], slots: int, seconds: float) -> float:
    """Return the node-seconds that an attempt held: of whole nodes, or its share of one.

    ``slots`` is how many share a node where the size is not known any more: an earlier driver started the attempt.
    """
    if nodes:
        return len(nodes) * seconds if size is None or size.shape.nodes else seconds / size.per_node
    if size is None:
        return seconds / max(1, slots)
    return seconds * size.shape.nodes if size.shape.nodes else seconds / size.per_node


def modelled(site: SiteModel, node_seconds: float, seconds: float) -> EnergyUse | None:
    """Return energy by the power model of a site: of its nodes, or of a slot where that is all it says; None: none."""
    if site.energy.node_watts is not None:
        watts, source, of = site.energy.node_watts, NODE_MODEL, node_seconds
    elif (slot := site.slot_watts()) is not None:
        watts, source, of = slot, SLOT_MODEL, seconds
    else:
        return None
    return EnergyUse(watts * of, None, EnergyLabel.MODELLED, source, node_seconds)


class EnergyBook:
    """What this driver's attempts and nodes used.

    Parameters
    ----------
    site
        Its counters and its power model.
    campaign
        Folder of the campaign.
    own_node
        Whether the node this process runs on is to be counted.
    """

    def __init__(self, site: SiteModel, campaign: Path, *, own_node: bool = True) -> None:
        self._site = site
        self._nodes: dict[str, EnergyUse] = {}  # all that was counted on each, by its latest record
        self._mine: NodeAccounts | None = None
        if not own_node or site.driver.mode is DriverMode.PILOT or not site.energy.sources:
            return  # its own node is none of the campaign's
        meter = NodeMeter(EnergyPlan(site.energy.sources, site.energy.folders))
        if meter.source:
            self._mine = NodeAccounts(meter, this_node(), account_of(campaign))
            with suppress(OSError, GFMError):
                self._mine.open()

    def used(self, node_seconds: float, seconds: float, found: AttemptEnergy | None) -> Used:
        """Return what an attempt used: as its nodes counted, or else by the model."""
        if found is None:
            return Used(node_seconds, modelled(self._site, node_seconds, seconds), None)
        self._nodes |= found.nodes
        return Used(node_seconds, found.task, found.idle if found.idle.node_seconds else None)

    def close(self) -> NodesMeasured | None:
        """Return what all nodes used while this driver had them, as far as it was counted; None: nothing was."""
        idle = None
        if self._mine is not None:
            with suppress(OSError, GFMError):
                left = self._mine.close()
                self._nodes[left.node], idle = left.all, left.idle
            self._mine = None
        used = total(self._nodes.values())
        return None if used is None else NodesMeasured(used, idle)
