"""A batch system is one class and one site file: the one of the documentation carries a campaign."""

from __future__ import annotations

import importlib
import os
import re
import sys
from pathlib import Path

import pytest
from workflow_cases import VALID

from gfm_pipeline.batch_systems.base import JobState
from gfm_pipeline.batch_systems.commands import SubmissionRefused
from gfm_pipeline.batch_systems.registry import batch_system, connected
from gfm_pipeline.cli.main import invoke
from gfm_pipeline.core.errors import ConfigError

PAGE = (Path(__file__).parents[2] / "docs" / "add-a-batch-system.md").read_text()
BLOCKS = dict(re.findall(r"```(python|toml|yaml)\n(.*?)```", PAGE, re.DOTALL))
FAKE = r"""#!/bin/sh
cd {folder}
echo "$(basename "$0") $*" >>calls
[ -e "trouble-$(basename "$0")" ] && {{ cat "trouble-$(basename "$0")" >&2; exit 255; }}
{act}
"""
ACTS = {
    "bsub": 'n=$((100 + $(ls jobs | wc -l))); echo "PEND|$2" >"jobs/$n"\n'
    '[ -e lost ] && { rm lost; echo "Failed in receiving the answer" >&2; exit 255; }\n'
    'echo "Job <$n> is submitted to queue <batch>."',
    "bjobs": 'last=; for last; do :; done\nfor job in $(ls jobs); do line="$(cat jobs/$job)"\n'
    '[ "$job" = "$last" ] || [ "${line#*|}" = "$last" ] && echo "$job|$line"; done; exit 0',
    "bkill": 'for job; do sed -i "s/^[A-Z]*/EXIT/" "jobs/$job"; done',
    "lsid": 'echo "My cluster name is lab"',
}


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """Install the package of the page as pip does, its site file, and commands that stand in for LSF's."""
    site, fake = tmp_path / "site-packages", tmp_path / "fake"
    (site / "lab_lsf-1.0.dist-info").mkdir(parents=True)
    (site / "lab_lsf.py").write_text(BLOCKS["python"])
    points = re.sub(r'\[project\.entry-points\."(.*)"\]', r"[\1]", BLOCKS["toml"]).replace('"', "")
    (site / "lab_lsf-1.0.dist-info" / "entry_points.txt").write_text(points)
    (site / "lab_lsf-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: lab-lsf\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(str(site))
    importlib.invalidate_caches()
    (fake / "jobs").mkdir(parents=True)
    for name, act in ACTS.items():
        (fake / name).write_text(FAKE.format(folder=fake, act=act))
        (fake / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lab.yaml").write_text(BLOCKS["yaml"])
    (tmp_path / "w.yaml").write_text(VALID)
    yield fake
    sys.modules.pop("lab_lsf", None)


def states(fake: Path) -> dict[str, str]:
    return {path.name: path.read_text().partition("|")[0] for path in (fake / "jobs").iterdir()}


def test_the_class_is_short():
    assert len(BLOCKS["python"].splitlines()) < 100


def test_a_campaign_is_submitted_shown_and_cancelled(lab, capsys):
    assert invoke(["submit", "w.yaml", "--site", "lab.yaml"]) == 0
    assert "Submitted job 100 " in capsys.readouterr().out
    assert states(lab) == {"100": "PEND"}
    (script,) = Path("campaigns/small/jobs").glob("*.sh")
    assert "#BSUB -nnodes " in script.read_text()
    assert invoke(["submit", "w.yaml", "--site", "lab.yaml"]) == 0
    assert "is in the queue already; nothing was submitted" in capsys.readouterr().out
    assert invoke(["status", "campaigns/small"]) == 0
    assert invoke(["cancel", "campaigns/small"]) == 0
    assert "Cancelled batch jobs: 100 " in capsys.readouterr().out
    assert states(lab) == {"100": "EXIT"}


def test_whatever_its_commands_do_one_job_comes_of_a_name(lab):
    system, script = connected("lsf", os.environ, 20.0), lab / "job.sh"
    assert system is not None
    (lab / "lost").touch()
    assert system.submit(script, "block-1") == "100"
    assert system.submit(script, "block-1") == "100"
    assert states(lab) == {"100": "PEND"}
    assert system.jobs(["100", "nobody-s"])["nobody-s"].state is JobState.UNKNOWN
    (lab / "trouble-bsub").write_text("nix: No such queue. Job not submitted.\n")
    with pytest.raises(SubmissionRefused, match="LSF refuses the job"):
        system.submit(script, "block-2")


def test_plan_reads_the_declaration_and_asks_nobody(lab):
    assert invoke(["plan", "w.yaml", "--site", "lab.yaml"]) == 0
    assert not (lab / "calls").exists()


@pytest.mark.parametrize("kind", ["lfs", "slrum"])
def test_a_batch_system_that_does_not_exist_is_refused_with_the_nearest(lab, kind, capsys):
    text = BLOCKS["yaml"].replace("kind: lsf", f"kind: {kind}")
    Path("lab.yaml").write_text(text)
    assert invoke(["plan", "w.yaml", "--site", "lab.yaml"]) == 2
    said = capsys.readouterr().err
    assert "lab.yaml:6" in said
    assert {"lfs": "lsf", "slrum": "slurm"}[kind] in said


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("lab_lsf:Lsf", "lab_lsf:STATES"), "names no batch system|is no"),
        (("lab_lsf:Lsf", "lab_lsf:Gone"), "cannot be imported"),
        (("lsf =", "other ="), "names the batch system 'lsf'"),
    ],
)
def test_wrong_entry_points_are_explained(lab, change, words):
    points = lab.parent / "site-packages" / "lab_lsf-1.0.dist-info" / "entry_points.txt"
    points.write_text(points.read_text().replace(*change))
    importlib.invalidate_caches()
    with pytest.raises(ConfigError, match=words):
        batch_system(change[1].removesuffix(" =") if "=" in change[1] else "lsf")
