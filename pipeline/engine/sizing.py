"""Sizes of a campaign's tasks on a site."""

from __future__ import annotations

from gfm_pipeline.campaign.events import StageName
from gfm_pipeline.execution.sizes import SizeClass
from gfm_pipeline.sites.launch import LaunchStrategy
from gfm_pipeline.sites.schema import SiteModel
from gfm_pipeline.sites.shape import TaskShape


def local_sizes(site: SiteModel) -> dict[StageName, tuple[SizeClass, ...]]:
    """Return the sizes on a machine without batch system: every task takes one slot of it."""
    slot = SizeClass(TaskShape(0, 1, 0, 0), LaunchStrategy.SPAWN, per_node=site.resolved_slots())
    return dict.fromkeys(StageName, (slot,))
