"""Programs written for the layout before still start: the names that docs/write-an-app.md gave them."""

from importlib import import_module

import pytest


@pytest.mark.parametrize(
    ("old", "new", "names"),
    [
        ("apps.program", "apps.runtime.program", ["run_program", "Task", "StopRequested"]),
        ("apps.contracts.task", "core.contracts.task", ["ExitCode", "RESULT_FILE"]),
        ("apps.contracts.training", "core.contracts.training", ["TrainSpec"]),
        ("apps.contracts.training", "core.contracts.training_result", ["TrainResult", "StopReason"]),
        ("apps.contracts.data", "core.contracts.dataset_statistics", ["DatasetStatistics"]),
        ("apps.contracts.data", "core.contracts.data", ["SourceSettings", "Split"]),
        ("apps.contracts.evaluation", "core.contracts.evaluation", ["CalibrateSpec", "PredictSpec"]),
    ],
)
def test_an_old_name_is_the_new_thing(old, new, names):
    before, now = import_module(f"gfm_pipeline.{old}"), import_module(f"gfm_pipeline.{new}")
    assert all(getattr(before, name) is getattr(now, name) for name in names)


@pytest.mark.parametrize(
    ("old", "new"),
    [("beat", "heartbeat"), ("saved", "report_saved"), ("stopping", "stop_requested"), ("progress", "report_progress")],
)
def test_a_program_may_call_its_task_by_the_old_names(old, new):
    task = import_module("gfm_pipeline.apps.program").Task
    assert vars(task)[old] is vars(task)[new]
