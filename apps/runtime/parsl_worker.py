"""The Parsl worker on a compute node: runs tasks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gfm_pipeline.apps.runtime.attempt_report import report
from gfm_pipeline.apps.runtime.launch import Launch
from gfm_pipeline.apps.runtime.parsl_environment import node_name, worker_number
from gfm_pipeline.apps.runtime.warm_start import WarmStarter
from gfm_pipeline.apps.runtime.wrapper import run
from gfm_pipeline.core.contracts.attempts.launch import RankFile
from gfm_pipeline.core.publish import storage_errors
from gfm_pipeline.core.records import from_plain, to_plain

_WARM = WarmStarter()  # of this worker; it starts nothing before the first suitable program


def start_wrapper(launch: dict[str, Any], ranks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Run one attempt under the task wrapper and return an `AttemptReport`, as plain data.

    Parameters
    ----------
    launch
        A `Launch`, as plain data.
    ranks
        Plain `gfm_pipeline.sites.launch.RankFile` records, one per slot of this node, since the GPUs and cores of the
        task depend on the worker that runs it. Empty: the launch needs none, or has its own.
    """
    known = from_plain(Launch, launch)
    if ranks:
        folder = Path(known.folder)
        with storage_errors(folder):
            from_plain(RankFile, ranks[worker_number() % len(ranks)]).write(folder)
    record = run(known, node_name(), _WARM)
    return dict(to_plain(report(known, record)))
