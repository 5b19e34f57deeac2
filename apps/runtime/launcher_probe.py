"""Records the resources that the launcher gives each rank.

A launch line starts ``python -m gfm_pipeline.apps.runtime.launcher_probe SPEC.json`` once per rank, without
`gfm_pipeline.apps.runtime.rank` in between, because the latter refuses a binding other than the site's, and the probe
records the actual binding. It writes ``looks/NAME.json``, one file per rank.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gfm_pipeline.apps.runtime.parsl_environment import node_name
from gfm_pipeline.core.publish import write_record
from gfm_pipeline.core.records import read_record

VIEWS_FOLDER = "looks"


@dataclass(frozen=True)
class LauncherProbeSpec:
    """Names of the launcher's variables according to the site."""

    rank_variable: str
    local_rank_variable: str
    visible_variable: str | None


@dataclass(frozen=True)
class LauncherView:
    """The state of one rank before any change by this project.

    ``rank`` and ``local_rank`` are None if the site's variables hold no number; ``numbers`` are possible alternatives.
    """

    node: str
    rank: int | None
    local_rank: int | None
    mask: str | None
    cores: tuple[int, ...]
    numbers: dict[str, str] = field(default_factory=dict)


def launcher_view(spec: LauncherProbeSpec, environ: Mapping[str, str]) -> LauncherView:
    """Return the view of this process."""
    rank, local_rank = (_number(environ, name) for name in (spec.rank_variable, spec.local_rank_variable))
    names = () if rank is not None and local_rank is not None else sorted(environ)
    return LauncherView(
        node_name() or socket.gethostname(),
        rank,
        local_rank,
        environ.get(spec.visible_variable) if spec.visible_variable else None,
        tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else (),
        {
            n: environ[n]
            for n in names
            if n.endswith(("RANK", "RANKID", "PROCID", "LOCALID")) and environ[n].isdecimal()
        },
    )


def _number(environ: Mapping[str, str], name: str) -> int | None:
    text = environ.get(name, "")
    return int(text) if text.isdecimal() else None


def main(arguments: list[str], folder: Path) -> int:
    """Write the view of this rank."""
    # what launchers set in the environment of a rank is the question
    found = launcher_view(read_record(LauncherProbeSpec, Path(arguments[0])), os.environ)
    place = folder / VIEWS_FOLDER
    place.mkdir(exist_ok=True)
    name = f"{found.node}-{os.getpid()}" if found.rank is None else str(found.rank)
    write_record(place / f"{name}.json", found)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], Path.cwd()))
