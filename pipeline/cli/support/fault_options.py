"""Options that inject faults into a run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from gfm_pipeline.core.errors import ConfigError
from gfm_pipeline.core.faultpoints import Fault, Injector, arm
from gfm_pipeline.engine.chaos import ChaosPlan

CHAOS = click.option(
    "--chaos",
    metavar="SEED:RATE",
    default=None,
    help="Inject RATE random faults per minute on average: kill tasks, slow them, refuse disk space. The result stays "
    "the same, and the log lists every fault. SEED seeds the random numbers: --chaos 7:20.",
)
# A tool for tests: `gfm_pipeline.core.faultpoints` names the points.
FAULT = click.option("--fault", "faults", multiple=True, metavar="NAME[:N[:WHAT]]", hidden=True)


def check_faults(faults: tuple[str, ...], chaos: str | None) -> tuple[tuple[Fault, ...], ChaosPlan | None]:
    """Return the faults in the options; raises `ConfigError` for invalid values."""
    if faults and chaos is not None:
        raise ConfigError("--fault and --chaos exclude each other.", "Give one of them.")
    return tuple(Fault.parse(text) for text in faults), None if chaos is None else ChaosPlan.parse(chaos)


@contextmanager
def injecting(faults: tuple[Fault, ...], root: Path) -> Iterator[None]:
    """Enable faults in this process, and in the wrappers and programs that it starts.

    ``.NAME.faults/PID`` next to the campaign's folder counts the reached and injected faults.
    """
    if not faults:
        yield
        return
    counts = root.parent / f".{root.name}.faults" / str(os.getpid())
    counts.mkdir(parents=True, exist_ok=True)
    arm(Injector(faults, os.getpid(), counts))
    try:
        yield
    finally:
        arm(None)
