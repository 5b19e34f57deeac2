"""results.csv: DeepHyper's own reader takes it, and it holds what the journal says."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import pandas as pd

from gfm_pipeline.campaign.paths import CampaignPaths
from gfm_pipeline.campaign.state import load_state
from gfm_pipeline.engine.stages.trials import objective_of
from gfm_pipeline.report.build import build_view
from gfm_pipeline.report.results_csv import results_csv
from gfm_pipeline.report.write import write_report
from gfm_pipeline.search.imports import unchanged_root_logger, without_module
from gfm_pipeline.search.warm_start import read_results
from gfm_pipeline.workflow.space import SpaceModel

FIXTURE = Path(__file__).parents[1] / "reliability" / "fixtures" / "campaign-v1" / "campaign"


def test_deephyper_reads_it_and_finds_the_best(tmp_path):
    folder = tmp_path / "campaign"
    shutil.copytree(FIXTURE, folder)
    write_report(folder)
    with without_module("mpi4py"), unchanged_root_logger():
        from deephyper.analysis.hpo import parameters_at_max, read_results_from_csv
    table = read_results_from_csv(str(folder / "results.csv"))
    stage = load_state(CampaignPaths(folder).journal).stage("search")
    candidates = stage.candidates()
    assert table["m:candidate"].tolist() == list(candidates)
    for name, row in table.set_index("m:candidate").iterrows():
        assert -row["objective"] == objective_of(stage, name, int(row["m:rung"]))
        assert row["m:objective_rung_0"] == objective_of(stage, name, 0)
        assert {k: row[f"p:{k}"] for k in candidates[name].settings} == candidates[name].settings
        assert 0 <= row["m:timestamp_submit"] <= row["m:timestamp_gather"]
        assert pd.isna(row["m:objective_error"])  # recorded before there was one
    ours = SpaceModel.model_validate(stage.settings["space"]).compile()
    again = read_results(folder / "optuna_journal.log", ours).results
    assert [(settings, -value) for settings, value in again] == [
        (candidates[name].settings, row["objective"]) for name, row in table.set_index("m:candidate").iterrows()
    ]
    best, value = parameters_at_max(table)
    assert value == table["objective"].max()
    assert best["algorithm"] in ("SchNet", "EGNN")


def test_a_candidate_that_diverged_is_a_failure_to_deephyper():
    state = load_state(FIXTURE / "journal.jsonl")
    for name, task in state.stage("search").tasks.items():
        task.diverged = name.startswith("c00001")
        task.result = {**task.result, "objective_error": 0.0123}
    table = pd.read_csv(io.StringIO(results_csv(state, build_view(FIXTURE).candidates)))
    assert table["objective"].astype(str).str.startswith("F_diverged").sum() == 1
    assert set(table["m:objective_error"]) == {0.0123}


def test_without_candidates_there_is_none():
    assert results_csv(load_state(FIXTURE / "journal.jsonl"), ()) == ""
