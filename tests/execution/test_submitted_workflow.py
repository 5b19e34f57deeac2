"""A job runs the workflow that was submitted, and a submission that is refused leaves nothing."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from test_add_batch_system import lab  # noqa: F401 - a fixture
from workflow_cases import VALID

from gfm_pipeline.api.run_request import RunRequest, SiteChoice
from gfm_pipeline.cli.main import invoke

JOBS = Path("campaigns/small/jobs")


def test_the_job_runs_a_copy_whatever_becomes_of_the_file(lab, capsys):  # noqa: F811
    assert invoke(["submit", "w.yaml", "--site", "lab.yaml"]) == 0
    (kept,), (script,) = JOBS.glob("*.workflow.yaml"), JOBS.glob("*.sh")
    assert kept.read_text() == VALID
    line = next(line for line in script.read_text().splitlines() if " run " in line)
    words = shlex.split(line.rstrip("& "))
    assert words[words.index("--as-submitted") + 1] == str(kept.resolve())
    asked = RunRequest(Path("w.yaml").resolve(), SiteChoice("lab.yaml"), None, (), kept)
    assert not asked.is_edited()
    count = asked.resolve().loaded.model.search.candidates
    edited = re.sub(r"candidates: \d+", "candidates: 3", VALID)
    assert edited != VALID
    Path("w.yaml").write_text(edited)
    assert asked.is_edited()
    found = asked.resolve()
    assert found.loaded.model.search.candidates == count != 3
    assert found.loaded.path == Path("w.yaml").resolve(), "files are looked for beside the workflow"
    assert str(kept) in " ".join(asked.command(found.site, found.context.paths.root)), "so do the jobs that follow"


def test_a_refused_submission_leaves_no_campaign(lab, capsys):  # noqa: F811
    (lab / "trouble-bsub").write_text("nix: No such queue. Job not submitted.\n")
    assert invoke(["submit", "w.yaml", "--site", "lab.yaml"]) == 2
    assert "LSF refuses the job" in capsys.readouterr().err
    assert not Path("campaigns").exists()
    (lab / "trouble-bsub").unlink()
    assert invoke(["submit", "w.yaml", "--site", "lab.yaml"]) == 0


def test_a_refused_submission_keeps_what_was_there(lab):  # noqa: F811
    assert invoke(["submit", "w.yaml", "--site", "lab.yaml"]) == 0
    assert invoke(["cancel", "campaigns/small"]) == 0
    (lab / "trouble-bsub").write_text("nix: No such queue. Job not submitted.\n")
    assert invoke(["submit", "w.yaml", "--site", "lab.yaml"]) == 2
    assert Path("campaigns/small/journal.jsonl").exists()


@pytest.mark.parametrize("hours", ["0.05", "0.099"])
def test_a_job_shorter_than_the_warning_before_its_end_is_refused(lab, hours, capsys):  # noqa: F811
    assert invoke(["submit", "w.yaml", "--site", "lab.yaml", "--hours", hours]) == 2
    assert "does nothing: the driver leaves 300 s before the end" in capsys.readouterr().err
    assert not Path("campaigns").exists()
