"""How nodes measure the energy of an attempt."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

from gfm_pipeline.core.contracts.energy import EnergyPlan
from gfm_pipeline.execution.size_class import SizeClass
from gfm_pipeline.sites.schema import SiteModel


def account_of(campaign: Path) -> str:
    """Return the name of the energy account that this driver's tasks share on each node."""
    return f"{zlib.crc32(str(campaign).encode()):08x}-{os.getpid()}"


def energy_plan(site: SiteModel, size: SizeClass, account: str) -> EnergyPlan | None:
    """Return how to measure the energy of a task of a size; None if the site disables this."""
    if not site.energy.sources:
        return None
    return EnergyPlan(site.energy.sources, site.energy.folders, account, 1.0 / size.per_node, max(1, size.shape.nodes))
