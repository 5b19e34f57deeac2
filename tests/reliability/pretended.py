"""A campaign of pretended programs: the workflow, the site, and what it left on disk."""

from __future__ import annotations

from pathlib import Path

from gfm_pipeline.common.publish import MANIFEST, verify

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

SITE = """\
name: pretend
description: The machine the tests run on, with pretended programs
scheduler: local
slots: 2
heartbeat_seconds: 1
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
    found = [p.parent for p in stages.rglob(MANIFEST) if "tasks" not in p.relative_to(stages).parts]
    return {str(p.relative_to(stages)): verify(p, digests=True).digest for p in sorted(found)}
