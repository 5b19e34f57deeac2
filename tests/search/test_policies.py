"""Policies: those that come along, those of other packages, and what a workflow may say of them."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

import pytest
from workflow_cases import VALID

from gfm_pipeline.apps.train.convergence import ConvergenceCriterion, TrainingStatus, judge
from gfm_pipeline.core.contracts.policies import (
    CRITERIA,
    PROPOSALS,
    SELECTIONS,
    STOPPING,
    PolicyChoice,
    PolicyDescription,
    make_policy,
)
from gfm_pipeline.core.contracts.training import Convergence
from gfm_pipeline.core.errors import ConfigError, WorkflowError
from gfm_pipeline.search.proposer import ProposalMethod
from gfm_pipeline.search.rungs import Promotion
from gfm_pipeline.search.selection import Finalist, Selection, passed_over
from gfm_pipeline.search.stopping import NoStopping, StoppingPolicy, SuccessiveHalving
from gfm_pipeline.workflow.load import load_workflow

PAGE = (Path(__file__).parents[2] / "docs" / "add-a-policy.md").read_text()
BASES = [
    (STOPPING, StoppingPolicy),
    (PROPOSALS, ProposalMethod),
    (SELECTIONS, Selection),
    (CRITERIA, ConvergenceCriterion),
]


@pytest.mark.parametrize(("group", "base"), BASES, ids=lambda value: getattr(value, "what", ""))
def test_every_policy_that_comes_along_can_be_made(group, base):
    for name, description in group.built_in.items():
        assert description.summary
        assert isinstance(make_policy(group, PolicyChoice(name, description.complete(name, {})), base), base)


def test_without_stopping_everybody_trains_on():
    objectives = {"a": 0.5, "b": 0.2, "c": None}
    found = NoStopping().promote(objectives, ["a", "b", "c"], frozenset(), 3.0)
    assert found == Promotion(("b", "a"), {"c": "no finite objective (diverged or failed)"})
    assert [NoStopping().most(27, rung, 3.0) for rung in range(3)] == [27, 27, 27]
    assert [SuccessiveHalving().most(27, rung, 3.0) for rung in range(3)] == [27, 9, 3]


NO_POLICY = PolicyDescription(f"{__name__}:Finalist", "no policy at all")


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """Install the policy of the documentation, and one that is none."""
    (tmp_path / "lab_policies.py").write_text(re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)[1])
    monkeypatch.syspath_prepend(tmp_path)
    group, name, value = re.search(r'entry-points."(.*?)"\]\n(\w+) = "(.*?)"', PAGE).groups()
    points = [
        importlib.metadata.EntryPoint(name, value, group),
        importlib.metadata.EntryPoint("nothing", f"{__name__}:NO_POLICY", "gfm_pipeline.convergence_criteria"),
    ]
    monkeypatch.setattr(
        "gfm_pipeline.core.contracts.extensions.entry_points",
        lambda group, name=None: [p for p in points if p.group == group and name in (None, p.name)],
    )


def write(tmp_path, setting: str):
    """Write a workflow whose last section, ``converge``, ends with ``setting``; return its path."""
    file = tmp_path / "w.yaml"
    file.write_text(VALID + setting)
    return file


def test_a_criterion_of_another_package_is_read_with_its_options_and_judges(installed, tmp_path):
    said = re.search(r"```yaml\nconverge:\n(.*?)```", PAGE, re.DOTALL)[1]
    file = write(tmp_path, said)
    chosen = load_workflow(file).model.converge.criterion
    assert chosen == PolicyChoice("target", {"objective": 0.3})
    rule = Convergence(10, 2, 0.02, 1000, 0.2, chosen.name, dict(chosen.options))
    assert judge([(10, 0.4)], 10, rule) is TrainingStatus.IMPROVING
    assert judge([(10, 0.4), (20, 0.2)], 20, rule) is TrainingStatus.PLATEAU
    assert load_workflow(write(tmp_path, "  criterion: target\n")).model.converge.criterion.options == {
        "objective": 0.1
    }


@pytest.mark.parametrize(
    ("converge", "message"),
    [
        ("  criterion: platau\n", "Did you mean plateau?"),
        ("  criterion: {name: target, objectiv: 0.3}\n", "Did you mean objective?"),
        ("  criterion: {name: target, objective: 3}\n", "objective"),
        ("  criterion: {objective: 0.3}\n", "must name a convergence criterion"),
        ("  criterion: 7\n", "must name a convergence criterion"),
        ("  selection: {name: best, first: 1}\n", "first"),
    ],
)
def test_a_wrong_policy_is_refused_at_its_line(installed, tmp_path, converge, message):
    file = write(tmp_path, converge)
    with pytest.raises(WorkflowError) as refused:
        load_workflow(file)
    assert message in f"{refused.value.message} {refused.value.hint}"
    assert refused.value.line == len(file.read_text().splitlines())


def test_what_is_no_policy_is_one_sentence(installed):
    with pytest.raises(ConfigError, match="cannot be used"):
        make_policy(CRITERIA, PolicyChoice("nothing", {}), ConvergenceCriterion)


def test_the_best_are_chosen_with_a_cap():
    finalists = [Finalist(n, 1, v, a) for n, v, a in [("a", 0.1, "PNA"), ("b", 0.2, "PNA"), ("c", 0.3, "EGNN")]]
    choice = make_policy(SELECTIONS, PolicyChoice("best", {}), Selection)
    assert [f.name for f in choice.choose(finalists, 2, 1)] == ["a", "c"]
    turns = make_policy(SELECTIONS, PolicyChoice("diverse", {}), Selection)
    assert [f.name for f in turns.choose(finalists, 3, 1)] == ["a", "c", "b"]


def test_who_is_passed_over_is_named():
    finalists = [Finalist(n, 1, v, a) for n, v, a in [("a", 0.1, "PNA"), ("b", 0.2, "PNA"), ("c", 0.3, "EGNN")]]
    choice = make_policy(SELECTIONS, PolicyChoice("best", {}), Selection)
    capped, free = choice.choose(finalists, 2, 1), choice.choose(finalists, 2, 2)
    said = "passed over for c (EGNN, rung 1, objective 0.3000): 1 of the members are PNA already"
    assert passed_over(finalists, capped) == {"b": said}
    assert passed_over(finalists, free) == passed_over([], []) == {}


def test_without_a_criterion_training_ends_at_its_limit():
    rule = Convergence(10, 1, 0.02, 30, 0.2, "limit")
    assert judge([(10, 0.4), (20, 0.4)], 20, rule) is TrainingStatus.IMPROVING
    assert judge([(10, 0.4), (20, 0.4), (30, 0.4)], 30, rule) is TrainingStatus.LIMIT


def test_the_page_lists_the_policies_there_are():
    for group, base in BASES:
        row = next(line for line in PAGE.splitlines() if group.group in line)
        assert all(f"`{name}`" in row for name in group.built_in)
        assert f"{base.__module__}.{base.__name__}" in row
