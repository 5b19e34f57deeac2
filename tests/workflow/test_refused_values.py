"""Values that a type admits and a workflow cannot mean are refused, each with its line and in words."""

from __future__ import annotations

from pathlib import Path

import pytest

from gfm_pipeline.core.errors import WorkflowError
from gfm_pipeline.workflow.load import load_workflow
from gfm_pipeline.workflow.source_files import named

BASE = """name: small
seed: 3
data:
  sources:
    s:
      reader: ase
      files: d.xyz
search:
  candidates: 2
  rungs: [20, 40]
  space: {algorithm: [SchNet], hidden: [8], layers: 1, cutoff: 4.0}
converge: {members: 1, check_every: 40, max_graphs: 80}
"""


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("seed: 3", "seed: true", 2, "seed: is true, which is no number or text"),
        ("candidates: 2", "candidates: 2\n  wave: true", 10, "search.wave: is true"),
        ("[20, 40]", "[20, true]", 10, "search.rungs.1: is true"),
        ("members: 1", "members: false", 12, "converge.members: is false"),
        ("name: small", f"name: {'n' * 300}", 1, "should be text of at most 128 characters"),
        ("name: small", "name: a b", 1, "letters, digits, _, . and -"),
        ("    s:", f"    {'s' * 200}:", 5, "at most 128 characters"),
        ("d.xyz", "d.xyz\n      isolated_energies: {Xx: 1}", 8, "isolated_energies.Xx: names no element. Known are"),
        ("d.xyz", "d.xyz\n      isolated_energies: {cu: 1}", 8, "Did you mean Cu?"),
        ("d.xyz", "d.xyz\n      energy_window: [1]", 8, "energy_window has too few values"),
        ("d.xyz", "d.xyz\n      group_key: ''", 8, 'group_key is "", but should be text of at least 1'),
        ("d.xyz", "d.xyz\n      energy_key: ''", 8, 'energy_key is ""'),
        ("converge:", "allocation: {queue: ''}\nconverge:", 12, 'allocation.queue is ""'),
        ("converge:", "---\nname: two\nconverge:", 12, "expected a single document in the stream, but found another"),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused_with_its_line(
    tmp_path: Path, old: str, new: str, line: int, words: str
) -> None:
    file = tmp_path / "w.yaml"
    assert old in BASE
    file.write_text(BASE.replace(old, new, 1))
    with pytest.raises(WorkflowError) as caught:
        load_workflow(file)
    assert words in str(caught.value)
    assert "^[" not in str(caught.value)
    assert caught.value.line == line


def test_truth_values_are_kept_where_they_are_meant(tmp_path: Path) -> None:
    file = tmp_path / "w.yaml"
    file.write_text(BASE.replace("d.xyz", "d.xyz\n      energy_per_atom: true\n      options: {format: true}"))
    source = load_workflow(file).model.data.sources["s"]
    assert source.energy_per_atom
    assert source.options == {"format": True}


def test_the_folder_of_the_workflow_is_a_folder(tmp_path: Path) -> None:
    assert named(tmp_path, ".") == [tmp_path]
    assert named(tmp_path, "") == []
