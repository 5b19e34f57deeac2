"""Forbidden combinations: no candidate has one, whoever proposes, and what leaves nothing is refused at its line."""

from __future__ import annotations

import numpy as np
import pytest
from workflow_cases import VALID, workflow

from gfm_pipeline.core.contracts.policies import PROPOSALS, default_choice, make_policy
from gfm_pipeline.core.errors import ConfigError, WorkflowError
from gfm_pipeline.core.records import canonical_json
from gfm_pipeline.search.encoding import Encoding
from gfm_pipeline.search.proposer import Observation, ProposalMethod
from gfm_pipeline.search.space import Choice, Range, SearchSpace
from gfm_pipeline.workflow.load import load_workflow

SPACE = SearchSpace(
    {
        "algorithm": Choice(("SchNet", "PNA")),
        "hidden": Choice((8, 16, 32)),
        "layers": Range(1, 4, whole=True),
        "learning_rate": Range(1e-4, 1e-1, log=True),
    },
    {"PNA": {"hidden": Choice((4, 8, 16))}},
    ({"algorithm": Choice(("PNA",)), "hidden": Choice((16,))}, {"hidden": Choice((32,)), "layers": Range(3, 4)}),
)


def test_rows_and_settings_agree_on_what_is_allowed():
    encoding = Encoding(SPACE)
    rows = encoding.from_units(np.random.default_rng(0).random((500, len(encoding.columns))))
    allowed = [SPACE.allows(s) for s in encoding.decode(rows)]
    assert encoding.allowed(rows).tolist() == allowed
    assert 0.5 < np.mean(allowed) < 0.9


@pytest.mark.parametrize("name", sorted(PROPOSALS.built_in))
def test_no_method_proposes_what_is_forbidden(name):
    method = make_policy(PROPOSALS, default_choice(PROPOSALS, name), ProposalMethod)
    taken = method.first_design(SPACE, 12, 1)
    best_forbidden = [Observation(s, abs(s["hidden"] - 32) / 32 + abs(s["layers"] - 4)) for s in taken]
    for observed in ([], best_forbidden):
        proposed = method.propose(SPACE, observed, taken, 24, 3)
        assert len(proposed) == 24
        assert all(SPACE.allows(s) for s in [*taken, *proposed])


def test_a_small_space_is_tried_out_but_for_what_is_forbidden():
    small = SearchSpace({k: v for k, v in SPACE.shared.items() if k != "learning_rate"}, SPACE.own, SPACE.forbidden)
    method = make_policy(PROPOSALS, default_choice(PROPOSALS, "batch-ucb"), ProposalMethod)
    proposed = method.propose(small, [], [], 18, 0)
    assert len({canonical_json(s) for s in proposed}) == 18 == 3 * 4 - 2 + 3 * 4 - 4
    assert all(small.allows(s) for s in proposed)


def test_what_leaves_nothing_says_so():
    empty = SearchSpace(SPACE.shared, {}, ({"layers": Range(1, 4)},))
    with pytest.raises(ConfigError, match="leaves next to nothing"):
        Encoding(empty).sample(3, np.random.default_rng(0))
    with pytest.raises(ConfigError, match="leaves next to nothing"):
        empty.sample(3, np.random.default_rng(0))


def test_a_workflow_without_the_key_has_the_settings_it_had():
    assert "forbidden" not in workflow().search.space.written()


def given(tmp_path, text):
    """Write a workflow with ``forbidden`` right below the algorithms of its space."""
    lines = VALID.splitlines()
    place = next(n for n, line in enumerate(lines) if line.strip().startswith("algorithm:"))
    indent = lines[place][: -len(lines[place].lstrip())]
    lines.insert(place + 1, f"{indent}forbidden: {text}")
    (tmp_path / "w.yaml").write_text("\n".join(lines) + "\n")
    return tmp_path / "w.yaml", place + 2


def test_a_workflow_says_it(tmp_path):
    file, _ = given(tmp_path, "[{algorithm: SchNet, batch_size: {low: 1, high: 65536}, learning_rate: 0.005}]")
    (combination,) = load_workflow(file).model.search.space.compile().forbidden
    assert combination["algorithm"] == Choice(("SchNet",))
    assert combination["batch_size"].contains(16)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[{}]", "is empty, which forbids everything"),
        ("[{hiden: 8}]", "Did you mean hidden?"),
        ("[{hidden: wide}]", "must be a whole number"),
        ("[{algorithm: PaiNN2}]", "which is not searched"),
        ("[{layers: {low: 1, high: 64}}]", "leaves next to nothing of"),
        ("[{layers: {low: 3, high: 2}}]", "must be below high"),
        ("[{hidden: 64, algorithm: EGNN}]", "is never 64, so that this combination forbids nothing"),
        ("[{learning_rate: {low: 0.1, high: 0.5}}]", "is never from 0.1 to 0.5"),
        ("[{force_head: direct}]", "is never direct"),
    ],
)
def test_what_cannot_be_is_refused_at_its_line(text, said, tmp_path):
    file, line = given(tmp_path, text)
    with pytest.raises(WorkflowError) as refused:
        load_workflow(file)
    assert said in str(refused.value)
    assert refused.value.line == line
