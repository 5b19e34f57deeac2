"""Record a small real campaign as a fixture: ``python tests/reliability/record_fixture.py FOLDER``.

Run once a schema version, with the version that introduces it; later versions must open what it wrote. Nothing of
the machine stays in it: paths become relative to FOLDER, and hosts, process numbers and times are made up.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from gfm_pipeline.campaign.journal import encode, read
from gfm_pipeline.campaign.paths import CampaignPaths
from gfm_pipeline.campaign.state import load_state
from gfm_pipeline.core.publish import MANIFEST
from gfm_pipeline.engine.decisions.artefacts import Role, artefacts

WORKFLOW = """\
name: recorded
seed: 1
data:
  sources:
    alloys:
      reader: emt-alloys
      options: {parents: 15, children: 1, sizes: [2]}
  validation: 0.3
  test: 0.3
search:
  candidates: 2
  asynchronous: false
  wave: 2
  rungs: [10, 20]
  reduction: 2
  space:
    algorithm: [SchNet, EGNN]
    hidden: 4
    layers: 1
    cutoff: 3.0
    n_radial: 4
    learning_rate: {low: 1e-3, high: 1e-2, scale: log}
    batch_size: 4
    force_weight: 5
converge:
  members: 2
  check_every: 20
  patience: 1
  max_graphs: 60
"""
EPOCH = 1.7e9  # when the fixture's campaign was created
KEPT = ("progress.jsonl",)  # of the attempts' folders: the learning curves of the report
LIMIT = 300_000  # bytes


def neutral(value: Any, folder: Path) -> Any:
    """Return plain data without places and names of this machine."""
    if isinstance(value, dict):
        found = {key: neutral(inner, folder) for key, inner in value.items()}
        return found | {key: 1 for key in ("pid",) if key in found} | {k: "host" for k in ("host",) if k in found}
    if isinstance(value, list):
        return [neutral(inner, folder) for inner in value]
    if isinstance(value, str):
        return value.replace(f"{folder}/", "").replace(str(folder), ".")
    return value


def record(folder: Path) -> None:
    """Run the campaign in ``folder`` and remove what the fixture does not need."""
    (folder / "w.yaml").write_text(WORKFLOW)
    command = [sys.executable, "-m", "gfm_pipeline", "run", "w.yaml", "--campaign", "campaign", "--quiet"]
    subprocess.run(command, cwd=folder, check=True)
    paths = CampaignPaths((folder / "campaign").resolve())
    state = load_state(paths.journal)
    for artefact in artefacts(paths, state):
        if artefact.role is Role.STEP:
            shutil.rmtree(artefact.folder)  # not needed any more
    for path in sorted(paths.root.rglob("*"), reverse=True):
        if "tasks" in path.parts and path.is_file() and path.name not in KEPT:
            path.unlink()
        elif path.is_dir() and not any(path.iterdir()):
            path.rmdir()
    shutil.rmtree(paths.parsl)
    for path in (paths.report_html, paths.report_markdown, paths.digests):
        path.unlink(missing_ok=True)


def neutralise(folder: Path) -> None:
    """Remove every trace of this machine from the journal, the manifests and the resolved workflow."""
    journal = folder / "campaign" / "journal.jsonl"
    entries = list(read(journal))
    began = entries[0].t
    journal.write_bytes(
        b"".join(encode(replace(e, t=EPOCH + e.t - began, data=neutral(e.data, folder.resolve()))) for e in entries)
    )
    for path in [*folder.rglob(MANIFEST), folder / "campaign" / "resolved.json"]:
        data = json.loads(path.read_text())
        if (clean := neutral(data, folder.resolve())) != data:  # else not a byte: a manifest may list another
            path.write_text(json.dumps(clean, indent=1, ensure_ascii=False) + "\n")
    for path in folder.rglob("progress.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps(row | {"time": EPOCH + row["time"] - began}) + "\n" for row in rows))


def check(folder: Path) -> int:
    """Return the fixture's size; raise when it is too large or names a place of this machine."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    for path in files:
        if any(str(place).encode() in path.read_bytes() for place in (folder, Path.home(), Path.cwd())):
            raise SystemExit(f"{path} names this machine")
    size = sum(path.stat().st_size for path in files)
    if size > LIMIT:
        raise SystemExit(f"{size} bytes are too many")
    return size


def main() -> None:
    """Record the fixture into the folder named on the command line."""
    target = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as name:
        source = Path(name).resolve()
        record(source)
        neutralise(source)
        size = check(source)
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target)
    sys.stdout.write(f"{target}: {size:,} bytes\n")


if __name__ == "__main__":
    main()
