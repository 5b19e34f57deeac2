"""Ends steps of a batch job: the processes of a launch line on other nodes."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from gfm_pipeline.core.contracts.attempts.records import STEP_FILE

CANCEL_SECONDS = 30.0


def end_step(folder: Path, cancel: Sequence[str]) -> bool:
    """Ask the batch system to end the step of the attempt in ``folder``; return whether a request was sent.

    Killing the launch line does not end the step, since the ranks belong to daemons on their nodes. If the batch system
    does not answer in time, the step ends with its job at the latest.

    Parameters
    ----------
    folder
        Folder of the attempt.
    cancel
        Command; ``{step}`` in it is replaced. Empty: the site has no such command.
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
