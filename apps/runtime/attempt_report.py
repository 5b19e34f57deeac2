"""The wrapper's report of an attempt through Parsl, in addition to its files."""

from __future__ import annotations

from pathlib import Path

from gfm_pipeline.apps.runtime.launch import Launch
from gfm_pipeline.core.contracts.attempts.files import read_error, read_result, read_saved
from gfm_pipeline.core.contracts.attempts.records import AttemptReport, ExitCode, ExitRecord
from gfm_pipeline.core.contracts.task import RESULT_FILE
from gfm_pipeline.core.visibility import wait_for


def report(launch: Launch, record: ExitRecord) -> AttemptReport:
    """Return the report of an ended attempt.

    It waits for the result, since the first rank may have run on another node. A launch that tasks share has no result.
    """
    folder = Path(launch.folder)
    if launch.spec is not None and record.code in (ExitCode.OK, ExitCode.DIVERGED):
        wait_for([folder / RESULT_FILE], launch.visible_seconds)
    return AttemptReport(record, read_result(folder), read_error(folder), read_saved(folder))
