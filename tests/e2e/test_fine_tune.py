"""A campaign that fine-tunes an earlier ensemble, as the page says it, and what such a workflow refuses."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import runs
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import read, write
from ruamel.yaml import YAML

from gfm_pipeline import Campaign
from gfm_pipeline.api.fine_tuning import refuse_unknown_elements
from gfm_pipeline.api.run_request import resolve
from gfm_pipeline.apps.train.checkpoint import load_model
from gfm_pipeline.campaign import events as ev
from gfm_pipeline.cli.main import invoke
from gfm_pipeline.core.errors import WorkflowError
from gfm_pipeline.report.brief import decisions_in_brief
from gfm_pipeline.workflow.load import load_workflow

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "deploy.md").read_text()
BUNDLE = ROOT / "tests" / "apps" / "fixtures" / "bundle-v1.gfm"
LITTLE = {
    "fine_tune.graphs": 40, "converge.members": 1, "converge.check_every": 40, "converge.patience": 1,
    "converge.max_graphs": 80, "site.compile_training": "never",
}  # fmt: skip


def write_page(folder: Path) -> Path:
    """Write the workflow of the page, its data and the earlier ensemble."""
    (text,) = (block for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL) if "fine_tune:" in block)
    frames = []
    for number in range(30):
        atoms = bulk(("Cu", "Au")[number % 2], cubic=True)
        atoms.rattle(0.05, seed=number)
        atoms.calc = EMT()
        atoms.get_forces()
        frames.append(atoms)
    write(folder / "labelled.extxyz", frames)
    shutil.copy(BUNDLE, folder / "model.gfm")
    (folder / "tuned.yaml").write_text(text)
    return folder / "tuned.yaml"


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tuned")
    options = [part for key, value in LITTLE.items() for part in ("--set", f"{key}={value}")]
    runs.finish(folder, "run", write_page(folder).name, "--site", "local", *options)
    return folder


def test_the_campaign_of_the_page_starts_from_the_weights_and_is_whole_without_them(tuned, capsys) -> None:
    root = tuned / "campaigns" / "tuned"
    (tuned / "model.gfm").unlink()
    request = [part for key, value in LITTLE.items() for part in ("--set", f"{key}={value}")]
    assert invoke(["plan", str(tuned / "tuned.yaml"), "--json", *request]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert {stage["action"] for stage in plan["stages"]} == {"done"}
    assert invoke(["replay", str(root)]) == 0
    (proposed,) = (e for e in runs.events(root / "journal.jsonl") if isinstance(e, ev.WaveProposed))
    assert proposed.origin == "members of an earlier ensemble"
    assert {one.settings["learning_rate"] for one in proposed.candidates} == {0.0005}
    (member,) = Campaign(root).ensemble().members
    assert member.card.origin.ensemble == "model.gfm"
    assert member.card.origin.branches == {"labelled": "alloys"}
    assert set(member.references["labelled"]) == {"Au", "Cu"}
    (ensemble,) = root.glob("stages/calibrate-*/ensemble")
    assert (
        f"(SHA-256 {member.card.origin.digest}); branches: labelled from alloys"
        in (ensemble / "MODEL_CARD.md").read_text()
    )
    assert load_model(ensemble / "members" / "m00").card.graphs >= 80
    assert f"members of the ensemble with SHA-256 {member.card.origin.digest}" in decisions_in_brief(root)
    assert "Fine-tuned from" in (root / "report.html").read_text()
    assert invoke(["plan", str(tuned / "tuned.yaml"), "--set", "fine_tune.model=other.gfm"]) == 2
    assert "other.gfm does not exist" in capsys.readouterr().err


FAULTS = {  # changed keys of the page's workflow; line and words of the refusal
    "missing": ({"fine_tune.model": "nothing.gfm"}, "fine_tune", "nothing.gfm does not exist. Give a campaign"),
    "cut": ({"fine_tune.model": "cut.gfm"}, "fine_tune", "cut.gfm is damaged or not an exported model"),
    "not a model": ({"fine_tune.model": "labelled.extxyz"}, "fine_tune", "is damaged or not an exported model"),
    "zero byte": ({"fine_tune.model": "a\0b"}, "fine_tune", "fine_tune.model"),
    "itself": ({"fine_tune.model": "campaigns/tuned"}, "fine_tune", "is this campaign.* another name, or fine-tune an"),
    "architecture": ({"fine_tune.settings": {"cutoff": 6}}, "fine_tune", "cutoff, which belongs to the architecture"),
    "typo": ({"fine_tune.settings": {"learning_rat": 1}}, "fine_tune", "Did you mean learning_rate"),
    "a range": ({"fine_tune.settings": {"warmup": [1, 2]}}, "fine_tune", "a whole number .*not"),
    "targets": (
        {"targets": {"energy": {}, "forces": {}, "stress": {}}},
        "targets",
        "different: stress.*Write targets: ",
    ),
    "attributes": ({"attributes": {"pressure": {}}}, "attributes", "attributes are not those of the earlier ensemble"),
    "search too": ({"search": {"space": {"algorithm": "PNA"}}}, "search", "exclude each other"),
    "members": ({"converge": {"members": 3}}, "converge", "converge.members is 3, and the earlier ensemble has 2"),
    "source": (
        {"fine_tune.branches": {"labeled": "alloys"}},
        "fine_tune",
        "no source 'labeled'. Did you mean",
    ),
    "branch": ({"fine_tune.branches": {"labelled": "alloy"}}, "fine_tune", "no dataset 'alloy'. Did you mean alloys"),
}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = write_page(tmp_path_factory.mktemp("page"))
    (file.parent / "cut.gfm").write_bytes(BUNDLE.read_bytes()[:3000])
    return file


@pytest.mark.parametrize("fault", FAULTS)
def test_what_does_not_fit_is_refused_with_its_line(fault, page) -> None:
    changes, section, words = FAULTS[fault]
    plain = YAML(typ="safe").load(page.read_text())
    for dotted, value in changes.items():
        *sections, last = dotted.split(".")
        node = plain
        for name in sections:
            node = node[name]
        node[last] = value
    lines = [f"{key}: {json.dumps(value)}" for key, value in plain.items()]
    file = page.with_name("faulty.yaml")
    file.write_text("\n".join(lines))
    with pytest.raises(WorkflowError, match=words) as raised:
        resolve(file, "local", None, ())
    assert raised.value.line == 1 + list(plain).index(section)


def test_elements_that_the_ensemble_does_not_know_are_named_at_preview(page) -> None:
    loaded = load_workflow(page)
    refuse_unknown_elements(loaded, {"labelled": ["Au", "Cu"]})
    with pytest.raises(WorkflowError, match="Source labelled has W, which the earlier ensemble") as raised:
        refuse_unknown_elements(loaded, {"labelled": ["Cu", "W"]})
    assert raised.value.line == 4


def test_elements_that_the_ensemble_does_not_know_end_a_run_before_ingest(page, tmp_path, capsys) -> None:
    for name in ("tuned.yaml", "model.gfm"):
        shutil.copy(page.with_name(name), tmp_path)
    atoms = bulk("Cu", cubic=True)
    atoms.symbols[0] = "O"
    atoms.calc = EMT()
    atoms.get_forces()
    write(tmp_path / "labelled.extxyz", [*read(page.with_name("labelled.extxyz"), ":"), atoms])
    workflow = tmp_path / "tuned.yaml"
    for command in ("validate", "plan"):  # these read no records, and say what they know
        assert invoke([command, str(workflow)]) == 0
        assert "The earlier ensemble knows Ag, Al, Au, Cu, Ni, Pd, Pt; `gfm-pipeline ingest" in capsys.readouterr().out
    assert invoke(["run", str(workflow)]) == 2
    assert f"{workflow}:4: Source labelled has O, which the earlier ensemble model.gfm" in capsys.readouterr().err
    assert not (tmp_path / "campaigns").exists()
