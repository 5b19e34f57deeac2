"""Steps of a batch job: what a launch line started on other nodes, and how to end it."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from gfm_pipeline.core.contracts.attempts.records import STEP_FILE

CANCEL_SECONDS = 30.0


def end_step(folder: Path, cancel: Sequence[str]) -> bool:
    """End the step of the attempt in ``folder``; return whether the batch system was asked to.

    Killing the launch line does not do it: the ranks belong to daemons on their nodes. A batch system that does
    not answer in time is left alone; the step ends with its job at the latest.

    Parameters
    ----------
    folder
        The attempt's.
    cancel
        Command; ``{step}`` in it is replaced. Empty: there is no such command here.
    """
    try:
        step = (folder / STEP_FILE).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return False  # it never started
    if not cancel or not step:
        return False
    with suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(
            [part.replace("{step}", step) for part in cancel],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=CANCEL_SECONDS,
            check=False,
        )
    return True
