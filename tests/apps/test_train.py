"""Training: exact resumption, parts of a batch, and how a task ends."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from training_cases import REFERENCE, assert_same_state, lines, morse_columns, publish_dataset, run, small_spec

from gfm_pipeline.apps.dataset import GraphTable, collate
from gfm_pipeline.apps.runtime.program import Task
from gfm_pipeline.apps.train.checkpoint import load, load_model
from gfm_pipeline.apps.train.setup import CHECKPOINTS
from gfm_pipeline.apps.train.task import train
from gfm_pipeline.apps.train.trainer import RECENT
from gfm_pipeline.apps.train.validate import Validation, validate
from gfm_pipeline.core.contracts.algorithms import BUILT_IN
from gfm_pipeline.core.contracts.task import ExitCode
from gfm_pipeline.core.contracts.training import Convergence, DatasetRef, TrainSpec
from gfm_pipeline.core.contracts.training_result import StopReason
from gfm_pipeline.core.errors import ConfigError, DataError, IntegrityError
from gfm_pipeline.models import ModelSpec, Potential, multitask_loss
from gfm_pipeline.models.loss import label_counts

NAMES = sorted(name for name, about in BUILT_IN.items() if not about.missing)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def datasets(tmp_path_factory) -> tuple[DatasetRef, ...]:
    folder = tmp_path_factory.mktemp("data")
    return publish_dataset(folder, "soft", 0, 1.0), publish_dataset(folder, "hard", 10, 2.0)


@pytest.fixture
def spec(datasets, tmp_path) -> TrainSpec:
    return small_spec(datasets, tmp_path / "output")


@pytest.mark.parametrize("algorithm", NAMES)
def test_it_learns(spec, tmp_path, algorithm):
    spec = replace(spec, model=replace(spec.model, algorithm=algorithm), budget_graphs=3200, validate_every=1000)
    result = run(spec, tmp_path / "a")
    assert result.stop_reason is StopReason.BUDGET
    assert result.objective < 0.5
    assert result.graphs == 3200
    assert 0.05 < result.peak_memory_gb < 100  # of this process
    assert result.steps == 400
    assert [x["graphs"] for x in lines(tmp_path / "a")] == [1000, 2000, 3000, 3200]
    assert min(x["objective"] for x in lines(tmp_path / "a")[-RECENT:]) == result.objective


def test_the_published_model_predicts_what_was_validated(spec, tmp_path, datasets):
    result = run(spec, tmp_path / "a")
    model = load_model(Path(result.checkpoint))
    assert model.datasets == ("soft", "hard")
    assert model.references == {"soft": REFERENCE, "hard": REFERENCE}
    tables = {
        d.name: GraphTable.build(morse_columns(seed, 24, stiffness), 3.0, k, {"energy": REFERENCE})
        for k, (d, seed, stiffness) in enumerate(zip(datasets, (1, 11), (1.0, 2.0), strict=True))
    }
    assert validate(model.potential, tables, None).objective == result.objective


def test_a_rung_is_judged_by_the_best_of_its_last_validations(spec, tmp_path, monkeypatch):
    """One that is out of the way decides nothing: neither which candidates go on, nor in the record."""
    found = iter([0.5, 0.3, 0.2, 0.25, 0.9])
    monkeypatch.setattr("gfm_pipeline.apps.train.trainer.validate", lambda *_: Validation(next(found), {}, 0.01))
    result = run(replace(spec, budget_graphs=240, validate_every=48), tmp_path / "a")
    assert (result.objective, result.objective_error) == (0.2, 0.01)
    said = lines(tmp_path / "a")
    assert [x["objective"] for x in said] == [0.5, 0.3, 0.2, 0.25, 0.9]
    assert {x["objective_error"] for x in said} == {0.01}


def test_a_rung_continued_is_the_longer_rung(spec, tmp_path):
    whole = run(spec, tmp_path / "whole")
    first = run(replace(spec, budget_graphs=200, output=str(tmp_path / "first")), tmp_path / "a")
    second = run(replace(spec, checkpoint=first.checkpoint, output=str(tmp_path / "second")), tmp_path / "b")
    assert (first.graphs, second.graphs) == (200, 400)
    assert_same_state(whole.checkpoint, second.checkpoint)
    assert second.objective == whole.objective
    assert first.objective != second.objective
    assert lines(tmp_path / "a", tmp_path / "b")[-1] == lines(tmp_path / "whole")[-1]


CONVERGE = Convergence(check_every=80, patience=2, min_delta=0.9, max_graphs=2000, anneal_fraction=0.5)


def test_convergence_anneals_and_survives_interruptions_anywhere(spec, tmp_path):
    spec = replace(spec, budget_graphs=None, convergence=CONVERGE)
    whole = run(spec, tmp_path / "whole")
    assert whole.stop_reason is StopReason.CONVERGED
    state = load(Path(whole.checkpoint)).state
    assert state.anneal.end <= whole.graphs < state.anneal.end + 8
    written = lines(tmp_path / "whole")
    assert {x["phase"] for x in written} == {"stable", "anneal"}
    assert written[-1]["lr"] == 0.0
    # stopped in the stable phase, in the anneal phase, and once before the first step of an attempt
    spec = replace(spec, output=str(tmp_path / "pieces"))
    attempts: list[Path] = []
    for k, looks in enumerate((13, 0, (state.anneal.start + 20) // 8)):
        attempt = run(replace(spec, previous_attempts=tuple(map(str, attempts))), tmp_path / f"p{k}", looks)
        assert isinstance(attempt, Path), "it should have been interrupted"
        attempts.append(attempt)
    last = tmp_path / "last"
    result = run(replace(spec, previous_attempts=tuple(map(str, attempts))), last)
    assert_same_state(whole.checkpoint, result.checkpoint)
    got = lines(*[a for a in attempts if (a / "progress.jsonl").exists()], last)
    assert got == written


@pytest.mark.parametrize("looks", [3, 13, 31])
def test_ema_after_resume_is_that_of_a_training_without_a_break_bit_for_bit(spec, tmp_path, looks):
    """Its decay depends on the number of the step: an average that began anew, or from the weights, would differ."""
    whole = load(Path(run(spec, tmp_path / "whole").checkpoint))
    spec = replace(spec, output=str(tmp_path / "other"))
    attempt = run(spec, tmp_path / "a", looks)
    resumed = load(Path(run(replace(spec, previous_attempts=(str(attempt),)), tmp_path / "b").checkpoint))
    assert whole.tensors.ema.keys() == resumed.tensors.ema.keys()
    for name, average in whole.tensors.ema.items():
        assert torch.equal(average, resumed.tensors.ema[name]), name
    assert any(not torch.equal(whole.tensors.ema[k], whole.tensors.weights[k]) for k in whole.tensors.ema)
    published = [load_model(Path(p)).potential.state_dict() for p in (tmp_path / "output", tmp_path / "other")]
    assert all(torch.equal(published[0][k], published[1][k]) for k in published[0])


def test_the_limit_is_said(spec, tmp_path):
    rule = replace(CONVERGE, min_delta=0.0001, max_graphs=240)
    result = run(replace(spec, budget_graphs=None, convergence=rule), tmp_path / "a")
    assert result.stop_reason is StopReason.LIMIT
    assert result.graphs == 360
    assert "240" in result.message


def test_convergence_goes_on_from_a_rung_and_a_converged_model_can_be_trained_on(spec, tmp_path):
    rung = run(replace(spec, budget_graphs=200), tmp_path / "a")
    rule = replace(CONVERGE, max_graphs=320)
    converge = replace(spec, budget_graphs=None, convergence=rule, checkpoint=rung.checkpoint)
    first = run(replace(converge, output=str(tmp_path / "c1")), tmp_path / "b")
    assert lines(tmp_path / "b")[0]["graphs"] == 240
    again = replace(converge, checkpoint=first.checkpoint, output=str(tmp_path / "c2"))
    second = run(replace(again, convergence=replace(rule, max_graphs=900)), tmp_path / "c")
    assert second.graphs > first.graphs
    assert lines(tmp_path / "c")[0]["phase"] == "stable"
    assert lines(tmp_path / "c")[0]["lr"] == spec.optimiser.learning_rate


def test_a_damaged_checkpoint_costs_only_the_work_since_the_one_before(spec, tmp_path):
    whole = run(spec, tmp_path / "whole")
    spec = replace(spec, output=str(tmp_path / "other"), checkpoint_every_seconds=0.0)
    attempt = run(spec, tmp_path / "a", 30)
    saved = sorted((attempt / CHECKPOINTS).glob("graphs-*"))
    assert len(saved) == 2
    state = saved[-1] / "state.pt"
    data = bytearray(state.read_bytes())
    data[len(data) // 2] ^= 1
    state.write_bytes(data)
    result = run(replace(spec, previous_attempts=(str(attempt),)), tmp_path / "b")
    assert_same_state(whole.checkpoint, result.checkpoint)
    assert lines(attempt, tmp_path / "b") == lines(tmp_path / "whole")


def test_a_result_lost_after_publication_is_found_again(spec, tmp_path):
    first = run(spec, tmp_path / "a")
    again = run(replace(spec, datasets=(DatasetRef("gone", "/nonexistent"),)), tmp_path / "b")
    assert again == first
    assert again.digest is not None


def test_a_cutoff_without_any_edge_is_said_before_a_step_is_done(spec, tmp_path):
    spec = replace(spec, model=replace(spec.model, cutoff=0.5))
    (tmp_path / "a").mkdir()
    with pytest.raises(DataError, match=r"No two atoms of dataset \w+ are within the cutoff of 0.5 Angstrom"):
        train(spec, Task(tmp_path / "a"))


def test_divergence_is_a_result(spec, tmp_path):
    spec = replace(spec, optimiser=replace(spec.optimiser, learning_rate=1e30, warmup=1))
    (tmp_path / "a").mkdir()
    result, code = train(spec, Task(tmp_path / "a"))
    assert code is ExitCode.DIVERGED
    assert result.stop_reason is StopReason.DIVERGED
    assert result.objective is None
    assert result.checkpoint is None
    assert "step" in result.message
    assert not Path(spec.output).exists()


def test_what_cannot_be_run_is_refused(spec, tmp_path):
    with pytest.raises(ConfigError, match="exactly one of budget_graphs and convergence"):
        run(replace(spec, convergence=CONVERGE), tmp_path / "a")
    rung = run(replace(spec, budget_graphs=16), tmp_path / "b")
    other = replace(spec, model=replace(spec.model, hidden=8), checkpoint=rung.checkpoint, output=str(tmp_path / "o"))
    with pytest.raises(ConfigError, match="another model"):
        run(other, tmp_path / "c")
    (Path(rung.checkpoint) / "state.pt").unlink()
    with pytest.raises(IntegrityError, match=r"state\.pt"):
        run(replace(spec, checkpoint=rung.checkpoint, output=str(tmp_path / "p")), tmp_path / "d")


@pytest.mark.parametrize("algorithm", NAMES)
@pytest.mark.parametrize("micro_batch", [1, 3, 8])
def test_micro_batches_make_the_same_steps(spec, tmp_path, algorithm, micro_batch):
    """Of batches of 8; labels of two datasets, with different numbers of atoms in every part."""
    spec = replace(spec, model=replace(spec.model, algorithm=algorithm), budget_graphs=80, validate_every=40)
    whole = run(spec, tmp_path / "whole")
    parts = run(replace(spec, micro_batch=micro_batch, output=str(tmp_path / "parts")), tmp_path / "a")
    assert (parts.graphs, parts.steps) == (whole.graphs, whole.steps) == (80, 10)
    assert parts.objective == pytest.approx(whole.objective, rel=1e-4)
    left, right = load(Path(whole.checkpoint)).tensors, load(Path(parts.checkpoint)).tensors
    for name, weight in left.weights.items():
        torch.testing.assert_close(right.weights[name], weight, rtol=1e-3, atol=2e-5)
    torch.testing.assert_close(right.optimiser["mean"], left.optimiser["mean"], rtol=1e-3, atol=1e-4)


def test_losses_of_parts_add_up_with_missing_labels():
    torch.manual_seed(0)
    columns = morse_columns(3, 9, 1.0)
    columns = columns.take(np.arange(len(columns)))
    columns.energy[[1, 4]] = np.nan
    columns.forces[[0, 7, 8]] = np.nan
    table = GraphTable.build(columns, 3.0, 0, {"energy": REFERENCE})
    model = Potential(ModelSpec("PaiNN", 8, 1, 3.0))
    scales, weights = dict.fromkeys(("energy", "forces"), torch.tensor([0.7])), {"energy": 1.0, "forces": 3.0}
    zeros = np.zeros(9, dtype=np.int64)

    def loss(graphs, counts=None):
        batch = collate([table], zeros[: len(graphs)], np.array(graphs))
        found = multitask_loss(model(batch, training=True), batch, scales, weights, counts=counts)
        return found.total, label_counts(batch)

    whole, counts = loss(range(9))
    assert counts == {"energy": 7, "forces": int(columns.natoms.sum()) - 3}
    parts = [loss(graphs, counts)[0] for graphs in (range(4), range(4, 5), range(5, 9))]  # one part has no energy
    assert float(sum(parts).detach()) == pytest.approx(float(whole.detach()), rel=1e-5)
