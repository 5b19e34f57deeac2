"""A campaign of pretended programs: the workflow, the site, and what it left on disk."""

from __future__ import annotations

import json
from pathlib import Path

import runs

from gfm_pipeline.core.contracts.task import EXIT_FILE, RESULT_FILE
from gfm_pipeline.core.publish import MANIFEST, verify

NAME = "pretended"
PROGRAMS = ("ingest.read", "ingest.assemble", "train", "calibrate.predict", "calibrate.fit")

WORKFLOW = f"""\
name: {NAME}
seed: 5
data:
  sources:
    alloys:
      reader: emt-alloys
      shards: 2
search:
  candidates: 4
  asynchronous: false
  rungs: [100, 200]
  reduction: 2
  space:
    algorithm: [SchNet, EGNN, PaiNN, PNA]
    hidden: [8, 16]
    learning_rate: {{low: 1e-3, high: 1e-2, scale: log}}
converge:
  members: 2
  check_every: 100
  max_graphs: 400
"""

SHORT = f"""\
name: {NAME}
seed: 5
data:
  sources:
    alloys:
      reader: emt-alloys
search:
  candidates: 2
  asynchronous: false
  wave: 1
  rungs: [100, 200]
  reduction: 2
  space:
    algorithm: [SchNet, EGNN]
    hidden: [8, 16]
converge:
  members: 1
  check_every: 100
  max_graphs: 300
"""

SITE = """\
name: pretend
description: The machine the tests run on, with pretended programs
scheduler: {{kind: local}}
slots: 2
driver: {{address: 127.0.0.1, heartbeat_seconds: 1}}
programs: {programs}
environment:
  OMP_NUM_THREADS: "1"
  PYTHONPATH: {path}
"""


def write_campaign(folder: Path, workflow: str = WORKFLOW, **programs: str) -> list[str]:
    """Write ``w.yaml`` and ``site.yaml`` into ``folder``; return the arguments that run them there.

    ``programs`` replace modules, by the last part of a program's name: ``train="my_module"``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    modules = {p: f"pretend.{p.rpartition('.')[2]}" for p in PROGRAMS}
    modules |= {p: programs[p.rpartition(".")[2]] for p in PROGRAMS if p.rpartition(".")[2] in programs}
    listed = "{" + ", ".join(f"{program}: {module}" for program, module in modules.items()) + "}"
    (folder / "w.yaml").write_text(workflow)
    (folder / "site.yaml").write_text(SITE.format(programs=listed, path=Path(__file__).parent))
    return ["run", "w.yaml", "--site", "site.yaml"]


def campaign_of(folder: Path) -> Path:
    """Return the campaign folder below ``folder``."""
    return folder / "campaigns" / NAME


def journal_of(folder: Path) -> Path:
    """Return the journal of the campaign below ``folder``."""
    return campaign_of(folder) / "journal.jsonl"


def artefacts(folder: Path) -> dict[str, str]:
    """Return the digest of every published artefact by its place, after checking every byte of it."""
    stages = campaign_of(folder) / "stages"
    found = [p.parent.relative_to(stages) for p in stages.rglob(MANIFEST)]
    published = [p for p in found if "tasks" not in p.parts and not p.name.startswith(".")]
    return {str(p): verify(stages / p, digests=True).digest for p in sorted(published)}


def assert_same(folder: Path, whole: Path) -> None:
    """Hold a campaign that was interrupted equal to one that was not, and nothing finished done twice."""
    found, wanted = runs.outcome(journal_of(folder)), runs.outcome(journal_of(whole))
    other = {k: (found.get(k), wanted.get(k)) for k in found.keys() | wanted.keys() if found.get(k) != wanted.get(k)}
    assert not other
    assert artefacts(folder) == artefacts(whole)
    for task, story in runs.starts(journal_of(folder)).items():
        assert story.count("ok") == 1, f"{task}: {story}"
        assert story[-1] == "ok", f"{task}: {story}"
    for task in (campaign_of(folder) / "stages").glob("*/tasks/*"):
        attempts = sorted(task.glob("attempt-*"), key=lambda p: int(p.name.rpartition("-")[2]))
        ended_well = [p.name for p in attempts if ended_ok(p)]
        assert ended_well == [attempts[-1].name], f"{task.name}: {ended_well} of {len(attempts)} attempts finished"


def ended_ok(attempt: Path) -> bool:
    """Return whether the wrapper saw the program of an attempt finish: srun may end with 0 though a node was lost."""
    record = attempt / EXIT_FILE
    return record.exists() and json.loads(record.read_text())["code"] == 0 and (attempt / RESULT_FILE).exists()
