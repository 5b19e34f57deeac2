"""A small campaign on real DFT data with one target beside energy and forces, through all four stages."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import runs
from ase import Atoms
from ase.io import read, write

from gfm_pipeline import Campaign
from gfm_pipeline.apps.calculator import GFMCalculator
from gfm_pipeline.apps.deploy.predict import predict_files
from gfm_pipeline.core.contracts.data import SourceSettings
from gfm_pipeline.core.contracts.deploy import PredictFilesSpec
from gfm_pipeline.core.contracts.evaluation import QuantityReport

WORKFLOW = """\
name: targets
seed: 1
targets:
  energy: {{}}
  forces: {{}}
{declared}
data:
  sources:
    acac: {{reader: ase, files: acac.extxyz, group_key: "@record"}}
  validation: 0.25
  test: 0.25
search:
  candidates: 2
  asynchronous: false
  rungs: [120]
  space: {{algorithm: [PaiNN, EGNN], hidden: 16, layers: 2, cutoff: 4.0, learning_rate: 0.01}}
converge: {{members: 2, check_every: 400, patience: 1, max_graphs: 800}}
"""


@dataclass(frozen=True)
class Result:
    """What a campaign left of its target: test errors, the Markdown report, a calculator, and a structure.

    ``evaluated``: labelled entries of each target in five of the structures, by `evaluate`.
    """

    errors: QuantityReport
    report: str
    evaluated: dict[str, int]
    calculator: GFMCalculator
    atoms: Atoms


def train(folder: Path, real_data: Path, declared: str, label: Callable[[Atoms], None]) -> Result:
    """Give 80 structures of acetylacetone a label, and run a campaign that learns it."""
    frames = read(real_data / "acac" / "train_300K.xyz", ":80")
    for atoms in frames:
        label(atoms)
    write(folder / "acac.extxyz", frames)
    text = WORKFLOW.format(declared=textwrap.indent(textwrap.dedent(declared).strip(), "  "))
    (folder / "workflow.yaml").write_text(text)
    runs.finish(folder, "run", "workflow.yaml", "--site", "local")
    campaign = Campaign(folder / "campaigns" / "targets")
    view = campaign.status()
    assert view.calibration is not None
    report = view.calibration.datasets["acac"]
    (name,) = report.others
    write(folder / "five.extxyz", frames[:5])
    files = SourceSettings("files", "ase", (str(folder / "five.extxyz"),))
    facts = predict_files(PredictFilesSpec(str(folder / "campaigns" / "targets"), files, evaluate=True))
    return Result(
        report.others[name],
        campaign.report().with_suffix(".md").read_text(),
        {one.target: one.entries for one in facts.errors if one.by == "all"},
        campaign.calculator(),
        frames[0],
    )
