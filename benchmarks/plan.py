"""How long it takes to plan a wave on a whole machine: decisions, plan, and what every task of the wave is told.

Run: ``python benchmarks/plan.py``. Prints seconds; the target is two for a wave of 8,192 nodes.
"""

from __future__ import annotations

import shlex
import time
from pathlib import Path

from gfm_pipeline.campaign.paths import CampaignPaths
from gfm_pipeline.campaign.state import CampaignState
from gfm_pipeline.engine.decisions.plan import make_plan
from gfm_pipeline.engine.decisions.requests import Context
from gfm_pipeline.engine.resources.allocation import Impossible
from gfm_pipeline.engine.resources.requirements import decide_resources
from gfm_pipeline.sites.launch import LaunchStrategy, group_rank_files, group_shape, launch_line, rank_file
from gfm_pipeline.sites.registry import load_site
from gfm_pipeline.workflow.schema import WorkflowModel

NODES = 8192


def workflow(candidates: int, batch: int) -> WorkflowModel:
    """Return a workflow whose wave is all its candidates."""
    plain = {
        "name": "wave",
        "data": {"sources": {"x": {"reader": "emt-alloys"}}},
        "search": {
            "candidates": candidates,
            "wave": candidates,
            "space": {"algorithm": ["PaiNN"], "batch_size": [batch]},
        },
        "allocation": {"nodes": NODES},
    }
    return WorkflowModel.model_validate(plain)


def wave(what: str, candidates: int, batch: int) -> None:
    """Plan one wave and print how long it took."""
    asked = workflow(candidates, batch)
    begun = time.perf_counter()
    site = load_site("frontier", sets=["site.scheduler.account=abc123"]).model
    loaded = time.perf_counter()
    resources = decide_resources(asked, site)
    if isinstance(resources, Impossible):
        raise SystemExit(resources.message)
    slots = resources.at_a_time("search")
    context = Context(asked, (), {}, slots, 1, CampaignPaths(Path("/nowhere")), resources.sizes)
    made = make_plan(context, CampaignState(), site, resources)
    planned = time.perf_counter()
    (size,) = resources.sizes["search"]
    tasks = min(candidates, slots)
    nodes = [f"frontier{number:05d}" for number in range(1, NODES + 1)]
    if size.strategy is LaunchStrategy.GROUP:
        shape = group_shape(site, size.shape, tasks)
        lines = [shlex.join(launch_line(site, shape, nodes[: shape.nodes]))]
        files = len(
            group_rank_files(site, size.shape, tasks, nodes, range(20000, 20000 + tasks), wrapper_timeout_seconds=60.0)
        )
    else:
        lines, files, each = [], 0, size.shape.nodes
        for task in range(tasks):
            mine = nodes[task * each : (task + 1) * each]
            lines.append(shlex.join(launch_line(site, size.shape, mine)))
            rank_file(site, size.shape, mine, 20000 + task, wrapper_timeout_seconds=60.0)
            files += 1
    ended = time.perf_counter()
    print(
        f"{what}: {tasks:,} tasks of {size.shape.ranks:,} ranks ({size.strategy}), {len(lines):,} launch lines, "
        f"{files:,} rank files, {made.allocation.nodes:,} nodes"
    )
    print(
        f"  site file {loaded - begun:.3f} s, plan {planned - loaded:.3f} s, lines {ended - planned:.3f} s, "
        f"in all {ended - begun:.3f} s"
    )


if __name__ == "__main__":
    wave("large trials", 90, 4096)
    wave("one trial a node", 7783, 8)
    wave("one trial a GPU", 62_264, 4)
