"""The page on targets, taken as it stands: a registered target, one declared on the spot, and what is refused."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

import numpy as np
import pytest
from ase.io import write
from ingest_cases import all_columns, labelled, run_all
from workflow_cases import VALID

from gfm_pipeline.core.contracts.target_checks import describe_target
from gfm_pipeline.core.contracts.targets import ENERGY, TARGETS, Target
from gfm_pipeline.core.errors import WorkflowError
from gfm_pipeline.workflow.load import load_workflow
from gfm_pipeline.workflow.resolve import resolve_source

PAGE = (Path(__file__).parents[2] / "docs" / "add-a-target.md").read_text()
USED, NAMED, DECLARED = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
SOURCE = "reader: ase\n      files: molecules.extxyz\n      group_key: run"
MISNAMED = Target("other", "", "calls itself otherwise")


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """Install the package of the page, and two that are at fault."""
    (tmp_path / "lab_targets.py").write_text(re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)[1])
    monkeypatch.syspath_prepend(tmp_path)
    group, name, value = re.search(r'entry-points."(.*?)"\]\n(\w+) = "(.*?)"', PAGE).groups()
    points = [
        importlib.metadata.EntryPoint(name, value, group),
        importlib.metadata.EntryPoint("broken", "no_such_module:TARGET", group),
        importlib.metadata.EntryPoint("misnamed", f"{__name__}:MISNAMED", group),
    ]
    monkeypatch.setattr(
        "gfm_pipeline.core.contracts.extensions.entry_points",
        lambda group, name=None: [p for p in points if p.group == group and name in (None, p.name)],
    )


def loaded(tmp_path: Path, targets: str, source: str = SOURCE):
    """Return a workflow with some targets and the extended XYZ of a source."""
    text = VALID.replace("seed: 3\n", targets)
    start, end = text.index("reader: emt-alloys"), text.index("search:")
    (tmp_path / "w.yaml").write_text(f"{text[:start]}{source}\n{text[end:]}")
    return load_workflow(tmp_path / "w.yaml")


def test_a_target_of_another_package_goes_from_the_workflow_to_the_dataset(installed, tmp_path):
    frames = labelled(16)
    alpha = np.array([[3.0, 0.1, 0], [0.1, 2, 0], [0, 0, 1]])
    for k, atoms in enumerate(frames):
        atoms.info["dft_alpha"] = (1 + k) * alpha
    write(tmp_path / "molecules.extxyz", frames)
    workflow = loaded(tmp_path, "targets: {energy: {}, forces: {}, polarisability: {}}\n")
    assert [t.name for t in workflow.model.targets] == ["energy", "forces", "polarisability"]
    columns = all_columns(run_all(tmp_path, resolve_source(workflow, "alloys")))
    wanted = (1 + columns.origin)[:, None, None] * alpha
    np.testing.assert_allclose(columns.graph_labels["polarisability"], wanted, rtol=1e-6)


def test_the_workflows_of_the_page_are_read(tmp_path):
    write(tmp_path / "molecules.extxyz", labelled(4))
    dipole = loaded(tmp_path, USED).model.targets[2]
    assert (dipole.name, dipole.weight, dipole.unit) == ("dipole", 0.5, "e*Angstrom")
    declared = loaded(tmp_path, DECLARED).model.targets[2]
    assert declared == Target(
        "formation_enthalpy",
        "kJ/mol",
        "formation enthalpy",
        extensive=True,
        reference=declared.reference,
        keys=("dHf", "formation_enthalpy"),
    )
    assert declared.reference == "elements"
    source = resolve_source(loaded(tmp_path, USED, NAMED.split("molecules:\n")[1].strip()), "alloys")
    assert (source.labels, source.label_units) == ({"dipole": "mu_pbe"}, {"dipole": "Debye"})


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("broken", "no_such_module"),
        ("misnamed", "calls itself 'other'"),
        ("polarisabilty", "Did you mean polarisability"),
    ],
)
def test_what_is_at_fault_is_refused_at_its_line(installed, tmp_path, name, words):
    write(tmp_path / "molecules.extxyz", labelled(4))
    with pytest.raises(WorkflowError) as refused:
        loaded(tmp_path, f"targets: {{energy: {{}}, {name}: {{}}}}\n")
    assert words in f"{refused.value.message} {refused.value.hint}"
    assert refused.value.line == 2


def test_the_page_lists_the_registered_targets_and_their_names():
    rows = dict(re.findall(r"^\| `(\w+)` \|(.*)$", PAGE, re.MULTILINE))
    assert list(rows) == list(TARGETS.built_in)
    for name in rows:
        target = describe_target(name)
        assert target.unit in rows[name]
        assert target is ENERGY or target.names[0] in rows[name]
