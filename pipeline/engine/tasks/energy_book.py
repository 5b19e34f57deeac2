"""The energy of attempts and nodes under this driver: counted, or from the site's power model."""

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
    """Nodes and energy of an attempt; ``idle``: the energy of its nodes before, while no task ran on them."""

    node_seconds: float
    energy: EnergyUse | None
    idle: EnergyUse | None


def held(size: SizeClass | None, nodes: Sequence[str], slots: int, seconds: float) -> float:
    """Return the node-seconds of an attempt: of whole nodes, or of its share of a node.

    ``slots`` is the number of tasks per node if the size is unknown, because an earlier driver started the attempt.
    """
    if nodes:
        return len(nodes) * seconds if size is None or size.shape.nodes else seconds / size.per_node
    if size is None:
        return seconds / max(1, slots)
    return seconds * size.shape.nodes if size.shape.nodes else seconds / size.per_node


def modelled(site: SiteModel, node_seconds: float, seconds: float) -> EnergyUse | None:
    """Return energy by a site's power model, per node, or else per slot; None: the site has no power model."""
    if site.energy.node_watts is not None:
        watts, source, of = site.energy.node_watts, NODE_MODEL, node_seconds
    elif (slot := site.slot_watts()) is not None:
        watts, source, of = slot, SLOT_MODEL, seconds
    else:
        return None
    return EnergyUse(watts * of, None, EnergyLabel.MODELLED, source, node_seconds)


class EnergyBook:
    """The energy of this driver's attempts and nodes.

    Parameters
    ----------
    site
        The machine, with its counters and its power model.
    campaign
        Folder of the campaign.
    own_node
        Whether to count the node of this process.
    """

    def __init__(self, site: SiteModel, campaign: Path, *, own_node: bool = True) -> None:
        self._site = site
        self._nodes: dict[str, EnergyUse] = {}  # counted energy per node, from its latest record
        self._mine: NodeAccounts | None = None
        if not own_node or site.driver.mode is DriverMode.PILOT or not site.energy.sources:
            return  # this process's node does not belong to the campaign
        meter = NodeMeter(EnergyPlan(site.energy.sources, site.energy.folders))
        if meter.source:
            self._mine = NodeAccounts(meter, this_node(), account_of(campaign))
            with suppress(OSError, GFMError):
                self._mine.open()

    def used(self, node_seconds: float, seconds: float, found: AttemptEnergy | None) -> Used:
        """Return the energy of an attempt: from its nodes' counters, or else from the model."""
        if found is None:
            return Used(node_seconds, modelled(self._site, node_seconds, seconds), None)
        self._nodes |= found.nodes
        return Used(node_seconds, found.task, found.idle if found.idle.node_seconds else None)

    def close(self) -> NodesMeasured | None:
        """Return the counted energy of all nodes while this driver held them; None: no counts."""
        idle = None
        if self._mine is not None:
            with suppress(OSError, GFMError):
                left = self._mine.close()
                self._nodes[left.node], idle = left.all, left.idle
            self._mine = None
        used = total(self._nodes.values())
        return None if used is None else NodesMeasured(used, idle)
