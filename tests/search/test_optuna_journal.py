"""Journals of Optuna: what Optuna wrote is read, and what we write says the same when it is read."""

from __future__ import annotations

import json

import pytest

from gfm_pipeline.core.errors import FileError
from gfm_pipeline.search.optuna_journal import TrialRecord, TrialState, journal_text, read_study, table_rows
from gfm_pipeline.search.space import Choice, Range, SearchSpace
from gfm_pipeline.search.warm_start import read_results

SPACE = SearchSpace(
    {
        "algorithm": Choice(("SchNet", "EGNN")),
        "hidden": Choice((16, 32)),
        "layers": Range(1, 4, whole=True),
        "learning_rate": Range(1e-4, 1e-2, log=True),
    },
    {"EGNN": {"hidden": Choice((8, 16))}},
)


def said(code, **more):
    return json.dumps({"op_code": code, "worker_id": "w", **more})


def distribution(name, **attributes):
    return json.dumps({"name": f"{name}Distribution", "attributes": attributes})


# As Optuna 4 writes it: a study to maximise, a trial by steps, a failure, a pruned one, one with all at once, one that
# runs.
WRITTEN = [
    said(0, study_name="x", directions=[2]),
    said(4, study_id=0, datetime_start="2026-11-30T13:46:16.108681+00:00"),
    said(5, trial_id=0, param_name="algorithm", param_value_internal=1,
         distribution=distribution("Categorical", choices=["SchNet", "EGNN"])),
    said(5, trial_id=0, param_name="hidden", param_value_internal=0,
         distribution=distribution("Categorical", choices=[8, 16])),
    said(5, trial_id=0, param_name="layers", param_value_internal=3.0,
         distribution=distribution("Int", log=False, step=1, low=1, high=4)),
    said(5, trial_id=0, param_name="learning_rate", param_value_internal=0.001,
         distribution=distribution("Float", step=None, low=1e-4, high=1e-2, log=True)),
    said(7, trial_id=0, step=10, intermediate_value=-0.9),
    said(6, trial_id=0, state=1, values=[-0.5], datetime_complete="2026-11-30T13:46:17.1+00:00"),
]  # fmt: skip


def template(state, value, intermediate=None):
    choices = {"algorithm": ("Categorical", {"choices": ["SchNet"]}), "hidden": ("Categorical", {"choices": [32]})}
    numbers = {"layers": ("Int", {"low": 1, "high": 4}), "learning_rate": ("Float", {"low": 1e-4, "high": 1e-2})}
    every = {name: distribution(kind, **attributes) for name, (kind, attributes) in (choices | numbers).items()}
    return said(
        4, study_id=0, state=state, values=value, datetime_start="", datetime_complete="",
        params={"algorithm": 0, "hidden": 0, "layers": 2, "learning_rate": 0.002},
        distributions=every, intermediate_values=intermediate or {},
    )  # fmt: skip


def test_a_search_begins_with_what_optuna_found_failures_included(tmp_path):
    path = tmp_path / "journal.log"
    others = [template(3, None), template(2, None, {"10": -0.8, "20": -0.7}), template(0, None), template(1, [-0.2])]
    path.write_text("\n".join([*WRITTEN, *others]) + "\n")
    found = read_results(path, SPACE)
    schnet = {"algorithm": "SchNet", "hidden": 32, "layers": 2, "learning_rate": 0.002}
    assert found.results == (
        ({"algorithm": "EGNN", "hidden": 8, "layers": 3, "learning_rate": 0.001}, 0.5),
        (schnet, None),
        (schnet, 0.7),
        (schnet, 0.2),
    )


@pytest.mark.parametrize(
    ("lines", "line", "fault"),
    [
        ([*WRITTEN, "{not json"], 9, "this line is not one of an Optuna journal"),
        ([*WRITTEN, said(5, trial_id=7, param_name="hidden")], 9, "this line is not one"),
        ([*WRITTEN, "[1]"], 9, "this line is not one"),
        ([*WRITTEN, said(0, study_name="y", directions=[1])], None, "holds 2 studies, not one"),
        ([said(0, study_name="x", directions=[1, 1])], None, "has 2 objectives"),
        (WRITTEN[:1], 1, "it has no column p:algorithm"),
    ],
)
def test_another_journal_is_refused(lines, line, fault, tmp_path):
    path = tmp_path / "journal.log"
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(FileError) as refused:
        read_results(path, SPACE)
    assert fault in refused.value.message
    assert refused.value.line == line


RECORDS = [
    TrialRecord({"algorithm": "EGNN", "hidden": 8, "layers": 1, "learning_rate": 1e-3}, [(100, 0.9), (200, 0.6)],
                TrialState.COMPLETE, 1e9, 1e9 + 5, {"candidate": "c00000"}),
    TrialRecord({"algorithm": "SchNet", "hidden": 32, "layers": 4, "learning_rate": 5e-3}, [(100, 1.5)],
                TrialState.PRUNED, 1e9, 1e9 + 2, {}),
    TrialRecord({"algorithm": "SchNet", "hidden": 16, "layers": 2, "learning_rate": 1e-2}, [],
                TrialState.FAIL, 1e9, 1e9 + 1, {}),
    TrialRecord({"algorithm": "SchNet", "hidden": 16, "layers": 2, "learning_rate": 2e-3}, [],
                TrialState.RUNNING, 1e9, None, {}),
]  # fmt: skip


def test_what_is_written_is_read_again():
    study = read_study(None, journal_text("x", SPACE, RECORDS).splitlines())
    assert study.minimized
    assert [dict(t.parameters) for t in study.trials] == [dict(r.settings) for r in RECORDS]
    assert [row["objective"] for _, row in table_rows(study)] == ["-0.6", "-1.5", "F_failed"]


def test_optuna_reads_what_is_written(tmp_path):
    optuna = pytest.importorskip("optuna")  # the extra `bench`
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    path = tmp_path / "journal.log"
    path.write_text(journal_text("x", SPACE, RECORDS))
    study = optuna.load_study(study_name="x", storage=JournalStorage(JournalFileBackend(str(path))))
    assert [t.state.name for t in study.trials] == ["COMPLETE", "PRUNED", "FAIL", "RUNNING"]
    assert [t.params for t in study.trials] == [dict(r.settings) for r in RECORDS]
    assert study.best_trial.number == 0
    assert study.trials[0].intermediate_values == {100: 0.9, 200: 0.6}
    assert study.trials[0].user_attrs == {"candidate": "c00000"}
