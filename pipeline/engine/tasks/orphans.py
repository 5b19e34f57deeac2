"""Finds and ends remaining processes of attempts and of Parsl on this machine, from their own records."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from gfm_pipeline.apps.runtime.job_steps import end_step
from gfm_pipeline.campaign.paths import CampaignPaths
from gfm_pipeline.core.contracts.attempts.launch import GROUP_FILE, GroupFile, RankFile
from gfm_pipeline.core.contracts.task import WRAPPER_FILE, WrapperRecord
from gfm_pipeline.core.errors import IntegrityError
from gfm_pipeline.core.processes import ProcessId, group_members, is_alive, is_here, kill, kill_group, started
from gfm_pipeline.core.records import read_record
from gfm_pipeline.execution.launcher import recorded_processes

GONE_SECONDS = 10.0  # wait for killed processes to disappear


def _record(folder: Path) -> WrapperRecord | None:
    try:
        return read_record(WrapperRecord, folder / WRAPPER_FILE)
    except (FileNotFoundError, NotADirectoryError, IntegrityError):
        return None


def end_attempt(folder: Path, *, wrapper: bool = True) -> bool:
    """Kill remaining processes of the attempt in ``folder`` on this machine; return whether there were any.

    First end a step on other nodes through the batch system, then the program's whole group. ``wrapper`` also ends
    the attempt's Parsl worker: this frees the slot of a hanging worker, because Parsl starts another one.
    """
    found = _record(folder)
    if found is None:
        return False
    with suppress(OSError, IntegrityError):  # most attempts have neither file
        shared = (folder / GROUP_FILE).exists()
        end_step(folder, (GroupFile if shared else RankFile).read(folder).cancel)
    ended = kill_group(found.program)
    return (kill(found.wrapper) if wrapper else False) or ended


def end_launches(paths: CampaignPaths) -> None:
    """Kill remaining processes of shared launches on this machine, and their steps on other nodes."""
    for file in sorted(paths.root.glob(f"stages/*/launches/*/{WRAPPER_FILE}")):
        end_attempt(file.parent)
        with suppress(OSError):
            file.unlink()


def attempts_left(paths: CampaignPaths) -> list[Path]:
    """Return the folders of attempts of this machine that still have a living process."""
    left = []
    for file in sorted(paths.root.glob(f"stages/*/tasks/*/attempt-*/{WRAPPER_FILE}")):
        found = _record(file.parent)
        if found is not None and (is_alive(found.wrapper) or _group_lives(found.program)):
            left.append(file.parent)
    return left


def parsl_left(paths: CampaignPaths) -> list[ProcessId]:
    """Return Parsl's recorded processes of this machine that still live."""
    return [p for p in recorded_processes(paths.parsl) if is_alive(p) or _group_lives(p)]


def _group_lives(leader: ProcessId) -> bool:
    return is_here(leader) and bool(group_members(leader.pid)) and (is_alive(leader) or not _reused(leader))


def _reused(leader: ProcessId) -> bool:
    """Return whether the number now belongs to another process."""
    now = started(leader.pid)
    return bool(now) and now != leader.started


def end_all(paths: CampaignPaths) -> tuple[list[Path], int]:
    """Kill all processes of the campaign on this machine except its driver.

    Returns
    -------
    tuple
        The ended attempts, and the number of ended processes of Parsl.
    """
    attempts, parsl = attempts_left(paths), parsl_left(paths)
    end_launches(paths)
    for folder in attempts:
        end_attempt(folder)
    for process in parsl:
        kill_group(process)
        kill(process)
    wait_gone(paths)
    for folder in attempts:
        with suppress(OSError):
            (folder / WRAPPER_FILE).unlink()
    return attempts, len(parsl)


def wait_gone(paths: CampaignPaths, seconds: float = GONE_SECONDS) -> bool:
    """Wait until only the driver of the campaign runs here; return whether that happened."""
    give_up = time.monotonic() + seconds
    while attempts_left(paths) or parsl_left(paths):
        if time.monotonic() > give_up:
            return False
        time.sleep(0.1)
    return True


def names(folders: Iterable[Path]) -> str:
    """Return the tasks of attempt folders, as text for users."""
    return ", ".join(sorted({folder.parent.name for folder in folders}))
