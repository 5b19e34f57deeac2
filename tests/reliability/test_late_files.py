"""A file system that shows what was written only seconds later, as the caches of NFS clients do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pretended
import pytest
import runs

from gfm_pipeline.campaign import events as ev
from gfm_pipeline.campaign.events import Cause
from gfm_pipeline.core import visibility
from gfm_pipeline.core.contracts.attempts.records import AttemptReport, ExitRecord
from gfm_pipeline.core.publish import MANIFEST, write_record
from gfm_pipeline.core.records import to_plain
from gfm_pipeline.engine.tasks.classify import classify
from gfm_pipeline.engine.tasks.late_files import missing
from gfm_pipeline.execution.launcher import LaunchEnd

HERE = Path(__file__).parent
DONE = ExitRecord(0, timed_out=False, seconds=1.0)


def late(files: str, seconds: float = 2.0) -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(HERE / "late"), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "LATE_FILES": files, "LATE_SECONDS": str(seconds)}


@pytest.mark.slow
@pytest.mark.parametrize("files", ["exit.json,result.json,saved", MANIFEST])
def test_what_shows_late_is_waited_for_and_nothing_is_done_twice(files, tmp_path):
    words = pretended.write_campaign(tmp_path, pretended.SHORT)
    done = subprocess.run(
        runs.command(*words), cwd=tmp_path, env=late(files), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert all(story == ["start", "ok"] for story in runs.starts(pretended.journal_of(tmp_path)).values())
    assert not [e for e in runs.events(pretended.journal_of(tmp_path)) if isinstance(e, ev.ArtefactLost)]


@pytest.mark.slow
def test_a_driver_that_comes_after_a_dead_one_waits_for_records_it_cannot_see_yet(tmp_path):
    """The first driver is killed before it hears of a training that has ended."""
    words = pretended.write_campaign(tmp_path, pretended.SHORT)
    killed = subprocess.run(
        runs.command(*words, "--fault", "task-classified:3"), cwd=tmp_path, capture_output=True, check=False
    )
    assert killed.returncode == -9
    done = subprocess.run(
        runs.command(*words), cwd=tmp_path, env=late("exit.json", 4.0), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert all(story == ["start", "ok"] for story in runs.starts(pretended.journal_of(tmp_path)).values())


def test_what_the_wrapper_told_is_believed_where_its_files_do_not_show(tmp_path):
    told = AttemptReport(DONE, {"digest": "d", "message": "fine"}, saved=3.0)
    ended = classify(tmp_path, None, told)
    assert (ended.cause, ended.result, ended.saved) == (Cause.FINISHED, told.result, 3.0)
    assert classify(tmp_path, None, AttemptReport(DONE)).cause is Cause.TROUBLE  # it says that there is no result


def test_what_is_waited_for(tmp_path):
    attempt, artefact = tmp_path / "attempt-1", tmp_path / "m00"
    attempt.mkdir()
    told = AttemptReport(DONE, {"digest": "d"})
    assert missing(attempt, LaunchEnd("t", None, told), artefact) == artefact / MANIFEST
    assert missing(attempt, LaunchEnd("t", None), artefact) == attempt / "exit.json"  # a task of a shared launch
    assert missing(attempt, LaunchEnd("t", "WorkerLost: gone"), artefact) is None  # it never began
    (attempt / "stdout.log").touch()
    assert missing(attempt, LaunchEnd("t", "WorkerLost: gone"), artefact) == attempt / "exit.json"
    assert missing(attempt, LaunchEnd("t", "StorageError: full"), artefact) is None  # the wrapper's own word
    (attempt / "wrapper.json").touch()
    assert missing(attempt, LaunchEnd("t", "WorkerLost: gone"), artefact) is None  # killed at work
    (attempt / "wrapper.json").unlink()
    write_record(attempt / "exit.json", DONE)
    assert missing(attempt, LaunchEnd("t", "WorkerLost: gone"), artefact) == attempt / "result.json"
    write_record(attempt / "result.json", to_plain(told.exit) | {"digest": "d"})
    assert missing(attempt, LaunchEnd("t", "WorkerLost: gone"), artefact) == artefact / MANIFEST
    artefact.mkdir()
    (artefact / MANIFEST).touch()
    assert missing(attempt, LaunchEnd("t", "WorkerLost: gone"), artefact) is None


def test_a_folder_is_asked_anew_before_a_file_is_said_to_be_absent(tmp_path, monkeypatch):
    """What a client believes of a folder holds until the folder is opened."""
    file, stale = tmp_path / "exit.json", [True]
    file.touch()
    exists, scandir = Path.exists, os.scandir

    def opened(path):
        stale[0] = False
        return scandir(path)

    monkeypatch.setattr(Path, "exists", lambda path: exists(path) and not stale[0])
    monkeypatch.setattr(os, "scandir", opened)
    assert visibility.is_there(file)
    assert not visibility.is_there(tmp_path / "none")


def test_a_rank_waits_for_what_it_is_told_on_another_host(tmp_path):
    """The rank's folder shows its files late: the rank waits instead of failing."""
    program = (
        "from pathlib import Path\n"
        "from gfm_pipeline.core.visibility import wait_for\n"
        f"assert wait_for([Path({str(tmp_path / 'launch.json')!r})], 20.0)\n"
    )
    (tmp_path / "launch.json").touch()
    done = subprocess.run([sys.executable, "-c", program], env=late("launch.json"), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
