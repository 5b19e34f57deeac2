"""Source files that are removed once they were ingested: what is published needs them no more."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pretended
import pytest
import runs

from gfm_pipeline.campaign import events as ev

pytestmark = pytest.mark.slow
FILES = ("a.extxyz", "b.extxyz")


def write(folder: Path, files: str = "'*.extxyz'") -> list[str]:
    folder.mkdir(exist_ok=True)
    for number, name in enumerate(FILES):
        (folder / name).write_text(f"1\n\nH 0 0 {number}\n")
    return pretended.write_campaign(
        folder, pretended.SHORT.replace("reader: emt-alloys", f"reader: ase\n      files: {files}")
    )


def command(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(runs.command(*words), cwd=folder, capture_output=True, text=True, check=False)


def ingests(folder: Path) -> int:
    starts = [e for e in runs.events(pretended.journal_of(folder)) if isinstance(e, ev.TaskStarted)]
    return sum(e.task.startswith(("read-", "assemble-")) for e in starts)


@pytest.mark.parametrize(
    ("files", "purged"),
    [("'*.extxyz'", FILES[:1]), pytest.param("[a.extxyz, b.extxyz]", FILES, marks=pytest.mark.long)],
)
def test_a_campaign_goes_on_without_them_and_says_so(files, purged, tmp_path):
    words = write(tmp_path, files)
    killed = command(tmp_path, *words, "--fault", "proposal-made:1")  # ingest is done, the search is not
    assert killed.returncode == -9
    before = ingests(tmp_path)
    for name in purged:
        (tmp_path / name).unlink()
    campaign = str(pretended.campaign_of(tmp_path))
    for verb in (["plan", *words[1:]], ["resume", campaign]):
        done = command(tmp_path, *verb)
        assert done.returncode == 0, done.stderr
        said = " ".join((done.stdout + done.stderr).split())
        assert "they are read and needed no more: their recorded digests are used" in said
        assert purged[0] in said
    assert ingests(tmp_path) == before
    for verb in (["run", *words[1:]], ["status", campaign], ["report", campaign]):
        done = command(tmp_path, *verb)
        assert done.returncode == 0, done.stderr


def test_one_that_changed_is_read_again_and_one_that_is_gone_then_is_missed(tmp_path):
    words = write(tmp_path, "[a.extxyz, b.extxyz]")
    assert command(tmp_path, *words).returncode == 0
    (tmp_path / "a.extxyz").write_text("1\n\nH 0 0 9\n")
    planned = json.loads(command(tmp_path, "plan", *words[1:], "--json").stdout)
    assert planned["stages"][0]["action"] == "run"
    (tmp_path / "b.extxyz").unlink()
    journal = pretended.journal_of(tmp_path).read_bytes()
    done = command(tmp_path, *words)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert "Ingest has to run" in line
    assert f"the source file {tmp_path / 'b.extxyz'} is gone. Put the files back" in line
    assert pretended.journal_of(tmp_path).read_bytes() == journal


def test_a_new_file_beside_the_others_is_other_data(tmp_path):
    words = write(tmp_path)
    assert command(tmp_path, *words).returncode == 0
    before = ingests(tmp_path)
    (tmp_path / "c.extxyz").write_text("1\n\nH 0 0 5\n")
    (tmp_path / "a.extxyz").unlink()
    assert command(tmp_path, *words).returncode == 0
    assert ingests(tmp_path) > before


def test_one_that_is_gone_before_ingest_was_done_is_a_sentence(tmp_path):
    words = write(tmp_path, "[a.extxyz, b.extxyz]")
    assert command(tmp_path, *words, "--fault", "task-classified:1").returncode == -9
    (tmp_path / "a.extxyz").unlink()
    done = command(tmp_path, "resume", str(pretended.campaign_of(tmp_path)))
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert "There is no file" in line
    assert "a source may be removed only after ingest is done" in line
