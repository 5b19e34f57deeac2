"""The batch scripts and launch lines of every shipped site, as text to review.

Run as a program (``make golden``), writes them anew into ``golden/``; what changed is seen in the difference.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
from pathlib import Path
from unittest.mock import patch

from gfm_pipeline.core.errors import ConfigError
from gfm_pipeline.sites.batch import BatchJob, block_script, resident_script
from gfm_pipeline.sites.launch import launch_line, pool_line, rank_file
from gfm_pipeline.sites.limits import Refusal, check_job
from gfm_pipeline.sites.registry import load_site, shipped
from gfm_pipeline.sites.schema import SiteModel
from gfm_pipeline.sites.task_shape import default_shape, node_layout

FOLDER = Path(__file__).parent / "golden"
NODES = (1, 4, 128, 8192)
CAMPAIGN = "/scratch/campaigns/demo"
POOL = "python -P -m gfm_pipeline.apps.runtime.forked_pool --block_id=demo-b001"  # stands for the line that Parsl gives


def render(name: str, nodes: int) -> dict[str, str]:
    """Return the golden files of a site for a number of nodes, by file name; impossible ones hold the refusal."""
    with patch.dict(os.environ, XDG_CONFIG_HOME=str(FOLDER / "nobody")):  # without the overlays of whoever runs this
        site = load_site(name).model
    kinds = {"resident.sh": _resident, "block.sh": _block, "launch.txt": _launch}
    found = {}
    for kind, make in kinds.items():
        try:
            text = make(site, nodes)
        except ConfigError as error:
            text = f"{error}\n"
        found[f"{nodes}-nodes.{kind}"] = text
    return found


def _job(site: SiteModel, nodes: int, name: str) -> BatchJob:
    job = check_job(site, None, nodes, None, site.scheduler.account or f"abc123{site.scheduler.account_suffix}")
    if isinstance(job, Refusal):
        raise ConfigError(job.message, job.hint)
    return BatchJob(
        name, nodes, job.hours or 0.0, job.queue or "", job.account, CAMPAIGN, f"{CAMPAIGN}/jobs/{name}.out", "/env/bin"
    )


def _resident(site: SiteModel, nodes: int) -> str:
    return resident_script(site, _job(site, nodes, "demo-d001"), ["gfm-pipeline", "resume", CAMPAIGN])


def _block(site: SiteModel, nodes: int) -> str:
    line = shlex.join(pool_line(site, nodes)) if site.launch.pool_template else ""
    pools = [f"{line} {POOL}".strip()]
    return block_script(site, _job(site, nodes, "demo-b001"), pools, f"{CAMPAIGN}/parsl/demo-b001/nodes")


def _launch(site: SiteModel, nodes: int) -> str:
    """Return the launch line of one task over all nodes, that of the pools, and what each local rank is told."""
    _job(site, nodes, "demo")
    names = [f"node{number:05d}" for number in range(1, nodes + 1)]
    shape = default_shape(site, nodes)
    lines = ["one task:", "", _shortened(shlex.join(launch_line(site, shape, names))), ""]
    if site.launch.pool_template:
        lines += ["worker pools:", "", _shortened(shlex.join(pool_line(site, names))), ""]
    told = rank_file(site, shape, names, site.driver.rendezvous_ports[0], wrapper_timeout_seconds=120.0)
    lines += [f"{shape.ranks} ranks, {shape.ranks_per_node} a node; {told.device} selects the device", ""]
    lines += [f"{'local rank':<12}{'GPU':<6}cores"]
    for rank, place in enumerate(node_layout(site, shape)):
        lines.append(f"{rank:<12}{'-' if place.gpu is None else place.gpu:<6}{place.cores or '-'}")
    lines += ["", f"bound by {'each rank' if told.bind else 'the launch line'}"]
    lines += [f"unset {name}" for name in told.unset]
    lines += [f"{name}={shlex.quote(value)}" for name, value in sorted(told.exports.items())]
    return "\n".join(lines) + "\n"


def _shortened(line: str) -> str:
    """Return a line with thousands of names, one by one, as the first and the last ones."""
    return re.sub(r"(node\d+,node\d+,)(?:node\d+,){5,}(node\d+)", r"\1...,\2", line)


def main() -> None:
    """Write all golden files anew."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    for name in shipped():
        (FOLDER / name).mkdir(parents=True)
        for nodes in NODES:
            for file, text in render(name, nodes).items():
                (FOLDER / name / file).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
