"""Waits for files that an attempt on another host must have written, and that are not visible here yet.

The wait does not block: an end with missing files is put aside and checked again, while other tasks continue.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from gfm_pipeline.campaign.events import Cause
from gfm_pipeline.campaign.paths import CampaignPaths
from gfm_pipeline.campaign.stage_state import TaskStatus
from gfm_pipeline.campaign.state import CampaignState
from gfm_pipeline.core.contracts.attempts.records import EXIT_FILE, WRAPPER_FILE
from gfm_pipeline.core.contracts.task import RESULT_FILE
from gfm_pipeline.core.publish import MANIFEST
from gfm_pipeline.core.visibility import is_there, wait_for
from gfm_pipeline.engine.decisions.artefacts import artefacts, folder_of
from gfm_pipeline.engine.tasks.attempts import AttemptKey, Running
from gfm_pipeline.engine.tasks.classify import classify
from gfm_pipeline.execution.launcher import LaunchEnd
from gfm_pipeline.sites.schema import SiteModel
from gfm_pipeline.workflow.schema import LimitsModel

SHARED_SECONDS = 60.0  # for a file of another host: the longest default cache time of NFS
LOCAL_SECONDS = 5.0  # on a machine without a batch system, which may still use a file server
LOST_WORKERS = ("WorkerLost", "ManagerLost")  # of Parsl: the end of the wrapper is then unknown
LOG = "stdout.log"  # the first file of a wrapper


def visible_seconds(limits: LimitsModel, site: SiteModel) -> float:
    """Return the longest wait (s) for a file of another host."""
    if limits.visible_seconds is not None:
        return limits.visible_seconds
    return LOCAL_SECONDS if site.scheduler.system is None else SHARED_SECONDS


def missing(folder: Path, end: LaunchEnd, artefact: Path | None) -> Path | None:
    """Return a missing file that an attempt must have written, by the known facts of its end.

    Parameters
    ----------
    folder
        The attempt's.
    end
        Parsl's report of the end.
    artefact
        Folder that the task publishes; None: unknown.
    """
    if end.report is None and not is_there(folder / EXIT_FILE):
        name = None if end.error is None else end.error.partition(":")[0]
        if name is None or (name in LOST_WORKERS and _took_leave(folder)):
            return folder / EXIT_FILE
    ended = classify(folder, end.error, end.report)
    if ended.cause is Cause.TROUBLE and ended.left_no_files and end.report is None:
        return folder / RESULT_FILE
    if artefact is None or ended.result is None or not ended.result.get("digest"):
        return None
    return None if is_there(artefact / MANIFEST) else artefact / MANIFEST


def _took_leave(folder: Path) -> bool:
    """Return whether the wrapper began and ended: it writes ``exit.json`` before it removes its own file."""
    return is_there(folder / LOG) and not is_there(folder / WRAPPER_FILE)


class LateEnds:
    """Ends of attempts whose files are not visible yet.

    Parameters
    ----------
    seconds
        The longest wait per end.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._held: dict[AttemptKey, tuple[LaunchEnd, float]] = {}

    def __len__(self) -> int:
        """Return the number of waiting ends."""
        return len(self._held)

    def holds(self, end: LaunchEnd, running: Running, artefact: Path | None, now: float) -> bool:
        """Return whether an end has to wait; if so, put it aside."""
        _, since = self._held.get(running.key, (end, now))
        if now - since > self.seconds or missing(running.folder, end, artefact) is None:
            return False
        self._held[running.key] = end, since
        return True

    def again(self) -> Iterator[LaunchEnd]:
        """Yield the ends to check again."""
        yield from [end for end, _ in self._held.values()]

    def known(self, running: Running) -> LaunchEnd:
        """Return the known facts of an attempt's end, if any."""
        return self._held.get(running.key, (LaunchEnd(running.key, None), 0.0))[0]

    def forget(self, running: Running) -> None:
        """Stop waiting for an attempt's files."""
        self._held.pop(running.key, None)


def wait_at_start(paths: CampaignPaths, state: CampaignState, seconds: float, now: float) -> None:
    """Wait for files that an earlier driver, perhaps on another host, saw: records and outputs of its tasks.

    Only files younger than ``seconds`` can be late. ``now`` is wall-clock time, as in the journal; a clock that
    jumped changes the length of the wait, but no result.
    """
    wanted: list[Path] = []
    for stage in state.stages.values():
        for task in stage.tasks.values():
            folder = paths.stage(stage.stage, stage.key).attempt(task.name, task.attempt)
            if task.status is TaskStatus.RUNNING and _took_leave(folder):
                wanted.append(folder / EXIT_FILE)
    ended = {folder_of(paths, s, t.name): t.ended for s in state.stages.values() for t in s.tasks.values()}
    recent = [a.folder for a in artefacts(paths, state) if now - (ended.get(a.folder) or 0.0) < seconds]
    wait_for([*wanted, *(folder / MANIFEST for folder in recent)], seconds)
