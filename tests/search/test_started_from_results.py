"""A search that begins with the results of an earlier one: what is read, what is refused, and what is learned."""

from __future__ import annotations

import json

import numpy as np
import pytest
from workflow_cases import VALID

from gfm_pipeline.api.run_request import resolve
from gfm_pipeline.core.errors import FileError
from gfm_pipeline.search.space import Choice, Range, SearchSpace
from gfm_pipeline.search.warm_start import MOST, on_scale_of, read_results

SPACE = SearchSpace(
    {
        "algorithm": Choice(("PaiNN", "SchNet")),
        "hidden": Choice((16, 32)),
        "layers": Range(1, 4, whole=True),
        "learning_rate": Range(1e-5, 1e-1, log=True),
        "cutoff": Choice((5.0,)),
    },
    {"SchNet": {"hidden": Choice((8, 64))}},
)
HEAD = "p:model_type,p:hidden_dim,p:num_conv_layers,p:learning_rate,objective,job_id"
ROWS = ["PAINN,16,2,0.001,-0.5,0", "SchNet,64.0,4,1e-2,F_oom,1", "PAINN,32,3,0.01,-0.25,2", "MACE,32,3,0.01,-0.1,3"]


def table(tmp_path, *rows, head=HEAD):
    path = tmp_path / "results.csv"
    path.write_text("\n".join([head, *rows]) + "\n")
    return path


def test_a_table_of_hydragnn_is_read_failures_included(tmp_path):
    found = read_results(table(tmp_path, *ROWS, "SchNet,16,4,0.01,-0.2,4", "PAINN,16,9,0.01,-0.2,5"), SPACE)
    assert found.results == (
        ({"algorithm": "PaiNN", "hidden": 16, "layers": 2, "learning_rate": 0.001, "cutoff": 5.0}, 0.5),
        ({"algorithm": "SchNet", "hidden": 64, "layers": 4, "learning_rate": 0.01, "cutoff": 5.0}, None),
        ({"algorithm": "PaiNN", "hidden": 32, "layers": 3, "learning_rate": 0.01, "cutoff": 5.0}, 0.25),
    )
    assert found.left_out == 3  # an algorithm, a width and a depth that are not searched


@pytest.mark.parametrize(
    ("rows", "head", "line", "said"),
    [
        (ROWS, HEAD.replace("objective", "loss"), 1, "it has no column 'objective'"),
        (ROWS, HEAD.replace("p:learning_rate", "p:rate"), 1, "it has no column p:learning_rate"),
        (["PAINN,16,2,0.001,good,0"], HEAD, 2, "the objective 'good' is neither"),
        (["MACE,16,2,0.001,-1,0"], HEAD, 2, "the algorithm is 'MACE'"),
        (["PAINN,16,2,-3,-1,0"], HEAD, 2, "learning_rate is '-3', and search.space.learning_rate is from"),
        (["PAINN,16,2,0.001"], HEAD, 2, "another number of cells"),
        (["PAINN,16,2,0.001,F_oom,0"], HEAD, None, "all of its 1 results are failures"),
        (["PAINN,16,2,0.001,-1,0,16"], HEAD + ",p:hidden_dim", 1, "the column 'p:hidden_dim' twice"),
        ([], HEAD, 1, "it has no results"),
    ],
)
def test_another_table_is_refused_at_its_line(rows, head, line, said, tmp_path):
    with pytest.raises(FileError) as refused:
        read_results(table(tmp_path, *rows, head=head), SPACE)
    assert said in refused.value.message
    assert refused.value.line == line
    assert refused.value.hint


def test_what_is_no_text_is_refused(tmp_path):
    (tmp_path / "results.csv").write_bytes(b"\xff\xfe\x00objective")
    for path in (tmp_path / "results.csv", tmp_path / "nowhere.csv", tmp_path):
        with pytest.raises(FileError, match="this is not a table of results"):
            read_results(path, SPACE)


def test_a_large_table_is_thinned_and_keeps_the_best(tmp_path):
    values = np.random.default_rng(0).random(3 * MOST)
    rows = [f"PAINN,16,2,{1e-4 * (1 + i / 1e4):.9g},{-value},{i}" for i, value in enumerate(values)]
    found = read_results(table(tmp_path, *rows), SPACE)
    assert len(found.results) == MOST
    kept = {value for _, value in found.results}
    assert set(np.sort(values)[: MOST // 2]) <= kept


def test_results_of_other_data_are_taken_on_this_search_s_scale():
    prior = [({}, float(v)) for v in range(100, 110)] + [({}, None)]
    assert on_scale_of(prior, [0.1] * 3) == prior
    scaled = on_scale_of(prior, [0.1 * i for i in range(10)])
    assert [v for _, v in scaled[:-1]] == pytest.approx([0.1 * i for i in range(10)])
    assert scaled[-1] == ({}, None)


def test_the_results_are_part_of_the_search_s_key_and_outlive_the_file(tmp_path):
    workflow = tmp_path / "w.yaml"
    workflow.write_text(VALID)

    def results(*overrides):
        return resolve(workflow, "local", tmp_path / "c", overrides).context.warm_start

    assert results() == ()
    space = resolve(workflow, "local", tmp_path / "c", ()).context.workflow.search.space.compile()
    rows = space.sample(3, np.random.default_rng(0))
    settings = [space.settings(row) for row in rows]
    head = [f"p:{name}" for name in settings[0]]
    lines = [",".join([*(str(s[name]) for name in settings[0]), str(-i)]) for i, s in enumerate(settings)]
    table(tmp_path, *lines, head=",".join([*head, "objective"]))
    found = results("search.warm_start=results.csv")
    assert [(s, v) for s, v in found] == [(s, float(i)) for i, s in enumerate(settings)]
    assert json.loads(json.dumps(found))
    (tmp_path / "results.csv").unlink()
    with pytest.raises(FileError, match=r"results\.csv: this is not a table of results"):
        results("search.warm_start=results.csv")
