"""Training: its parts by themselves, which need no task."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from training_cases import REFERENCE, morse_columns

from gfm_pipeline.apps.dataset import GraphTable
from gfm_pipeline.apps.train.convergence import TrainingStatus, judge
from gfm_pipeline.apps.train.device import keep_freed_memory
from gfm_pipeline.apps.train.flat_parameters import clip, flat_parts, flatten, update_ema
from gfm_pipeline.apps.train.optimisers.adamw import AdamW
from gfm_pipeline.apps.train.sampler import BLOCK, Sampler, draws_per_block
from gfm_pipeline.apps.train.schedule import Anneal, anneal_after, learning_rate
from gfm_pipeline.apps.train.task import last_graphs
from gfm_pipeline.apps.train.validate import error_sums, mean_errors, objective, subset, validate, variance
from gfm_pipeline.core.contracts.optimisation.settings import OptimiserSettings
from gfm_pipeline.core.contracts.training import Convergence
from gfm_pipeline.core.errors import DataError
from gfm_pipeline.models import ModelSpec, Potential

pytestmark = pytest.mark.usefixtures("one_thread")


def test_sampler_draws_each_graph_once_a_pass_and_any_batch_alone():
    sampler = Sampler([50, 200], 1.0, seed=7)
    first = [sampler.batch(k * 16, 16) for k in range(300)]
    table, graph = (np.concatenate(x) for x in zip(*first, strict=True))
    for dataset, size in ((0, 50), (1, 200)):
        drawn = graph[table == dataset]
        whole = drawn[: len(drawn) // size * size].reshape(-1, size)
        assert len(whole) > 2
        np.testing.assert_array_equal(np.sort(whole, axis=1), np.tile(np.arange(size), (len(whole), 1)))
        assert not np.array_equal(whole[0], whole[1])
    fresh = Sampler([50, 200], 1.0, seed=7)
    for k in (299, 64, 3):
        np.testing.assert_array_equal(fresh.batch(k * 16, 16), first[k])
    np.testing.assert_array_equal(
        np.concatenate(fresh.batch(BLOCK - 5, 12)),
        np.concatenate([np.concatenate([fresh.batch(BLOCK - 5 + k, 1)[i] for k in range(12)]) for i in (0, 1)]),
    )
    assert not np.array_equal(Sampler([50, 200], 1.0, seed=8).batch(0, 64), sampler.batch(0, 64))


def test_sampler_shares_follow_the_temperature():
    assert draws_per_block([100, 900], 1.0) / BLOCK == pytest.approx([0.1, 0.9], abs=0.002)
    assert draws_per_block([100, 900], 2.0) / BLOCK == pytest.approx([0.25, 0.75], abs=0.002)
    assert draws_per_block([1, 10**9], 1.0).tolist() == [1, BLOCK - 1]
    table, _ = Sampler([100, 900], 2.0, 0).batch(0, 2 * BLOCK)
    assert np.bincount(table).tolist() == (2 * draws_per_block([100, 900], 2.0)).tolist()
    with pytest.raises(DataError, match="empty"):
        draws_per_block([3, 0], 2.0)


def test_schedule_warms_up_stays_and_goes_to_zero():
    warm = [learning_rate(1e-2, s, 10, 8 * s, None) for s in range(12)]
    assert warm[0] == pytest.approx(1e-3)
    assert warm[9:] == [1e-2] * 3
    phase = anneal_after(1000, 0.25)
    assert phase == Anneal(1000, 1250)
    rates = [learning_rate(1e-2, 500, 10, g, phase) for g in (1000, 1125, 1250, 1300)]
    assert rates == pytest.approx([1e-2, 5e-3, 0.0, 0.0])
    assert anneal_after(1, 0.01) == Anneal(1, 2)


@pytest.mark.parametrize(
    ("objectives", "verdict"),
    [
        ([], TrainingStatus.IMPROVING),
        ([0.9, 0.9], TrainingStatus.IMPROVING),  # too short to tell
        ([0.9, 0.8, 0.7, 0.6], TrainingStatus.IMPROVING),
        ([0.9, 0.5, 0.499, 0.498], TrainingStatus.PLATEAU),  # better, by less than one per cent
        ([0.9, 0.5, 0.7, 0.49], TrainingStatus.IMPROVING),  # the last of the window made it
        ([0.9, 0.5, 0.6, 0.7], TrainingStatus.PLATEAU),
    ],
)
def test_stopper(objectives, verdict):
    rule = Convergence(check_every=10, patience=2, min_delta=0.01, max_graphs=1000, anneal_fraction=0.2)
    history = [(10 * (k + 1), x) for k, x in enumerate(objectives)]
    assert judge(history, 10 * len(history), rule) is verdict
    assert judge(history, 1000, rule) is (verdict if verdict is TrainingStatus.PLATEAU else TrainingStatus.LIMIT)


def test_flat_parameters_train_like_separate_ones():
    torch.manual_seed(0)
    a = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.SiLU(), torch.nn.Linear(7, 3))
    b = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.SiLU(), torch.nn.Linear(7, 3))
    b.load_state_dict(a.state_dict())
    vector = flatten(a, gradients=True)
    flat = AdamW(vector, flat_parts(a), OptimiserSettings(weight_decay=0.1))
    plain = torch.optim.AdamW(b.parameters(), lr=0.01, weight_decay=0.1)
    x = torch.randn(11, 5)
    for _ in range(5):
        vector.grad.zero_()
        plain.zero_grad()
        (a(x) ** 2).sum().backward(inputs=list(a.parameters()))
        (b(x) ** 2).sum().backward()
        norm = clip(vector.grad, 3.0)
        assert norm == pytest.approx(float(torch.nn.utils.clip_grad_norm_(b.parameters(), 3.0)), rel=1e-5)
        flat.step(0.01)
        plain.step()
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("steps", [125, 4000])
def test_the_average_of_weights_reaches_back_over_the_same_share_of_any_training(steps):
    """Of weights that say at which step they were."""
    age = {}
    for decay in (0.9, 0.99, 0.999):
        average = torch.zeros(1)
        for step in range(steps):
            update_ema(average, torch.tensor([float(step)]), decay, step)
        age[decay] = 1.0 - float(average) / steps
    assert age[0.9] < 0.03
    assert age[0.99] == pytest.approx(0.09, abs=0.02)
    assert age[0.999] == pytest.approx(0.47, abs=0.04)  # nearly the plain mean


def test_the_average_reaches_back_less_as_the_rate_falls_and_ends_at_the_weights():
    found = []
    for falling in (False, True):
        average = torch.zeros(1)
        for step in range(1000):
            share = 1.0 - step / 1000 if falling else 1.0
            update_ema(average, torch.tensor([float(step)]), 0.99, step, share)
        found.append(999.0 - float(average))
    assert found[0] == pytest.approx(91.0, abs=5.0)
    assert found[1] < 10.0
    update_ema(average, torch.tensor([7.0]), 0.99, 1000, 0.0)
    assert float(average) == 7.0


def test_validation_subset_is_fixed_and_objective_is_relative_to_learning_nothing():
    assert subset(10, None).tolist() == list(range(10))
    assert np.array_equal(subset(1000, 50), subset(1000, 50))
    assert len(np.unique(subset(1000, 50))) == 50
    table = GraphTable.build(morse_columns(5, 70, 1.0), 3.0, 0, {"energy": REFERENCE})
    model = Potential(ModelSpec("SchNet", 8, 1, 3.0))
    with torch.no_grad():
        model.node_energy.weight2.zero_()
    found = validate(model, {"soft": table}, None)
    score, errors = found.objective, found.errors
    assert found.standard_error == pytest.approx(0.0, abs=1e-12)  # a ratio that is 1 for every structure
    assert score == pytest.approx(1.0)
    assert errors["soft"].force_mae == pytest.approx(np.abs(table.atom_labels["forces"]).mean(), rel=1e-6)
    assert errors["soft"].energy_mae == pytest.approx(
        np.abs(table.graph_labels["energy"] / table.natoms).mean(), rel=1e-6
    )
    half = replace(errors["soft"], energy_mae=errors["soft"].energy_mae / 2)
    assert objective({"a": errors["soft"], "b": half}) == pytest.approx((1 + 0.75) / 2)


def test_the_standard_error_is_the_scatter_of_objectives_on_other_structures():
    """Of subsets drawn at random from many structures, against what one of them says of itself."""
    table = GraphTable.build(morse_columns(6, 1500, 1.0), 3.0, 0, {"energy": REFERENCE})
    torch.manual_seed(1)
    model = Potential(ModelSpec("SchNet", 8, 1, 3.0))
    cpu, targets = torch.device("cpu"), model.spec.targets
    parts = [error_sums(model, table, np.arange(k, 1500, 50), 64, cpu) for k in range(50)]
    objectives = [objective({"d": mean_errors(targets, part)}) for part in parts]
    said = [variance(part) ** 0.5 for part in parts]
    assert np.median(said) == pytest.approx(np.std(objectives), rel=0.35)
    whole = error_sums(model, table, np.arange(1500), 64, cpu)
    np.testing.assert_allclose(sum(parts), whole, rtol=1e-6, atol=1e-9)
    assert variance(whole) ** 0.5 == pytest.approx(np.median(said) / 50**0.5, rel=0.35)
    assert variance(error_sums(model, table, np.arange(1), 64, cpu)) == 0.0  # one structure says nothing of others


def test_memory_setting_says_whether_it_worked():
    assert keep_freed_memory() in (True, False)


def test_last_graphs_ignores_torn_lines(tmp_path):
    path = tmp_path / "progress.jsonl"
    assert last_graphs(path) == -1
    path.write_bytes(b'{"graphs": 10}\n\xff\xfe\n{"graphs": 20}\n{"graphs": 30')
    assert last_graphs(path) == 20
