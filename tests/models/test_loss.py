"""The loss: a sum over targets, each in units of its scale, over the labels that are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from brute import Structure, batch

from gfm_pipeline.core.contracts.optimisation.losses import BUILT_IN, LOSSES, target_losses
from gfm_pipeline.core.contracts.optimisation.settings import OptimiserSettings, Weighting
from gfm_pipeline.core.contracts.targets import DEFAULT, DIPOLE, STRESS, Level, Rank, Target
from gfm_pipeline.core.errors import ConfigError, ModelError
from gfm_pipeline.models import ModelSpec, MultitaskLoss, Potential, Prediction, multitask_loss
from gfm_pipeline.models.loss import label_counts

CUTOFF = 4.0
GAP = Target("gap", "eV", "")
TENSORS = Target("tensors", "", "", Level.ATOM, Rank.TENSOR)


def structures() -> list[Structure]:
    rng = np.random.default_rng(0)
    sizes = (3, 5, 4)
    found = [
        Structure(rng.choice([1, 8], n), rng.normal(scale=1.5, size=(n, 3)), None, k % 2) for k, n in enumerate(sizes)
    ]
    return [replace(s, energy=rng.normal(), forces=rng.normal(size=s.pos.shape)) for s in found]


def make(targets: tuple[Target, ...] = DEFAULT) -> Potential:
    torch.manual_seed(0)
    return Potential(ModelSpec("SchNet", 8, 1, CUTOFF, n_datasets=2, targets=targets))


def test_energies_and_forces_have_the_loss_they_always_had_to_the_bit():
    """Trainings that were begun before targets were declared go on as if nothing had changed."""
    model, data = make(), batch(structures(), CUTOFF, torch.float32)
    data.labels["energy"][1] = torch.nan
    data.labels["forces"][4] = torch.nan
    rms, weight, counts = torch.tensor([0.7, 1.9]), 3.7, {"energy": 5, "forces": 31}
    out = model(data, training=True)
    scale = 1.0 / rms.index_select(0, data.dataset)
    errors = [out.energy - data.labels["energy"], out.forces - data.labels["forces"]]
    errors[0] = errors[0].masked_fill(torch.isnan(data.labels["energy"]), 0.0)
    errors[1] = errors[1].masked_fill(torch.isnan(data.labels["forces"]).any(1, keepdim=True), 0.0)
    energy = (errors[0].abs() * (scale / data.natoms.to(scale.dtype))).sum() / torch.tensor(5)
    length = torch.linalg.vector_norm(errors[1], dim=1)
    wanted = energy + weight * ((length * scale.index_select(0, data.graph)).sum() / torch.tensor(31))
    wanted.backward(inputs=list(model.parameters()))
    gradients = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    scales, weights = {"energy": rms, "forces": rms}, {"energy": 1.0, "forces": weight}
    found = multitask_loss(model(data, training=True), data, scales, weights, counts=counts)
    found.total.backward(inputs=list(model.parameters()))
    assert torch.equal(found.total, wanted)
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True))


def test_every_target_has_its_scale_weight_and_norm():
    targets = (*DEFAULT, GAP, DIPOLE, TENSORS)
    model, data = make(targets), batch(structures(), CUTOFF, torch.float32)
    rng = torch.Generator().manual_seed(1)
    labels = {
        "gap": torch.randn(3, generator=rng),
        "dipole": torch.randn(3, 3, generator=rng),
        "tensors": torch.randn(12, 3, 3, generator=rng),
    }
    labels["gap"][0] = labels["dipole"][1, 2] = labels["tensors"][5, 1, 1] = torch.nan
    data = replace(data, labels={**data.labels, **labels})
    scales = {t.name: torch.tensor([0.5 + k, 2.0 + k]) for k, t in enumerate(targets)}
    weights = {t.name: 1.0 + k for k, t in enumerate(targets)}
    out = model(data, training=True)
    loss = multitask_loss(out, data, scales, weights, targets)
    assert label_counts(data, targets) == {"energy": 3, "forces": 12, "gap": 2, "dipole": 2, "tensors": 11}
    dataset, natoms, graph = data.dataset, data.natoms, data.graph
    gap = (out.values["gap"] - labels["gap"]).abs() / scales["gap"][dataset]
    dipole = (out.values["dipole"] - labels["dipole"]).norm(dim=1) / scales["dipole"][dataset] / natoms
    tensor = (out.values["tensors"] - labels["tensors"]).flatten(1).norm(dim=1) / scales["tensors"][dataset][graph]
    for name, each in (("gap", gap), ("dipole", dipole), ("tensors", tensor)):
        assert loss.terms[name].item() == pytest.approx(float(each.nanmean().detach()), rel=1e-5)
    total = sum(weights[name] * float(term.detach()) for name, term in loss.terms.items())
    assert loss.total.item() == pytest.approx(total, rel=1e-6)


def test_a_target_without_labels_costs_nothing_and_moves_no_weight():
    targets = (*DEFAULT, STRESS, GAP)
    model, data = make(targets), batch(structures(), CUTOFF, torch.float32)
    scales, weights = {t.name: torch.ones(2) for t in targets}, dict.fromkeys((t.name for t in targets), 1.0)
    loss = multitask_loss(model(data, training=True), data, scales, weights, targets)
    loss.total.backward(inputs=list(model.parameters()))
    assert loss.terms["stress"].item() == loss.terms["gap"].item() == 0.0
    for name, p in model.named_parameters():
        assert p.grad is not None
        assert p.grad.isfinite().all()
        assert name.startswith("head_gap") == (not p.grad.any()), name


def test_a_batch_without_labels_is_refused():
    model, data = make(), replace(batch(structures(), CUTOFF, torch.float32), labels={})
    with pytest.raises(ModelError, match="the batch has none"):
        multitask_loss(model(data, training=True), data, {}, {})


def of_rows(name: str, error: np.ndarray, scale: float, delta: float) -> np.ndarray:
    """Return what each loss is of errors [rows, components], written down once more."""
    size = np.abs(error)
    if name == "l2-norm":
        return np.sqrt((error**2).sum(1))
    if name == "huber":
        return np.where(size < delta, error**2 / (2 * delta), size - delta / 2).mean(1)
    if name == "nll":
        return (0.5 * (error / scale) ** 2 + np.log(scale)).mean(1)
    if name == "crps":  # the integral of (cumulative distribution - step)^2
        y = np.linspace(-12, 12, 4001)
        below = 0.5 * (1 + torch.erf(torch.tensor(y / scale / np.sqrt(2))).numpy())
        return np.array([[np.trapezoid((below - (y >= e)) ** 2, y) for e in row] for row in error]).mean(1)
    return (size if name == "l1" else error**2).mean(1)


def multitask(targets: tuple[Target, ...] = DEFAULT, **changes: object) -> MultitaskLoss:
    chosen = {key: changes.pop(key) for key in ("loss", "weight", "final_weight") if key in changes}
    default = changes.pop("default", "l2-norm")
    settings = OptimiserSettings(huber_delta=0.3, **changes)
    rules = target_losses(("soft", "hard"), {t.name: 2.0 for t in targets}, default, chosen)
    return MultitaskLoss(targets, {t.name: (0.5, 2.0) for t in targets}, rules, settings)


@pytest.mark.parametrize("name", BUILT_IN)
def test_each_loss_is_what_it_says(name):
    data = batch(structures(), CUTOFF, torch.float32)
    data.labels["forces"][4] = torch.nan
    torch.manual_seed(2)
    out = Prediction({"energy": torch.randn(3), "forces": torch.randn(12, 3)})
    loss = multitask(default=name)
    if LOSSES.describe(name).scaled:
        with torch.no_grad():
            for parameter in loss.log_scale.values():
                parameter.copy_(torch.tensor([0.2, -0.3]))
    else:
        assert not list(loss.parameters())
    found = loss(out, data)
    graph, scale = data.graph.numpy(), np.exp([0.2, -0.3])
    dataset, unit = data.dataset.numpy(), np.array([0.5, 2.0])
    energy = (out.energy - data.labels["energy"]).numpy() / unit[dataset] / data.natoms.numpy()
    forces = (out.forces - data.labels["forces"]).numpy() / unit[dataset][graph][:, None]
    rows = {"energy": (energy[:, None], dataset), "forces": (np.delete(forces, 4, 0), np.delete(dataset[graph], 4))}
    for target, (errors, where) in rows.items():
        each = [of_rows(name, errors[k : k + 1], scale[where[k]], 0.3)[0] for k in range(len(errors))]
        assert found.terms[target].item() == pytest.approx(float(np.mean(each)), rel=1e-3), target
    assert found.total.item() == pytest.approx(2.0 * sum(t.item() for t in found.terms.values()), rel=1e-5)


def test_targets_and_datasets_have_losses_and_weights_of_their_own_that_change_over_a_training():
    data = batch(structures(), CUTOFF, torch.float32)
    out = Prediction({"energy": torch.randn(3), "forces": torch.randn(12, 3)})
    loss = multitask(
        loss={"energy": "mse", "forces.hard": "l1"},
        weight={"energy": 1.0, "energy.hard": 3.0},
        final_weight={"energy.hard": 5.0, "forces": 0.0},
    )
    plain = {name: multitask(default=name)(out, data).terms for name in ("mse", "l1", "l2-norm")}
    assert loss(out, data).terms["energy"].item() == pytest.approx(plain["mse"]["energy"].item(), rel=1e-6)
    forces, hard = loss(out, data).terms["forces"].item(), data.dataset[data.graph] == 1
    error = (out.forces - data.labels["forces"]) / torch.tensor([0.5, 2.0])[data.dataset][data.graph].unsqueeze(1)
    wanted = torch.where(hard, error.abs().mean(1), error.norm(dim=1)).mean()
    assert forces == pytest.approx(wanted.item(), rel=1e-5)
    energy = ((out.energy - data.labels["energy"]) / torch.tensor([0.5, 2.0])[data.dataset] / data.natoms) ** 2
    for done, weights, force_weight in ((0.0, [1.0, 3.0], 2.0), (0.5, [1.0, 4.0], 1.0), (1.0, [1.0, 5.0], 0.0)):
        wanted = (energy * torch.tensor(weights)[data.dataset]).mean() + force_weight * forces
        assert loss(out, data, done=done).total.item() == pytest.approx(wanted.item(), rel=1e-5)
    for wrong, near in ({"loss": {"force": "l1"}}, "forces"), ({"weight": {"energy.sofd": 1.0}}, "soft"):
        with pytest.raises(ConfigError, match="which is not trained") as caught:
            multitask(**wrong)
        assert near in caught.value.hint
    with pytest.raises(ConfigError, match="no loss 'hubber'"):
        multitask(default="hubber")


def test_learned_weights_and_scales_settle_at_the_size_of_the_errors_and_parts_add_up():
    data = batch(structures(), CUTOFF, torch.float32)
    data.labels["forces"][4] = torch.nan
    out = Prediction({"energy": torch.randn(3), "forces": torch.randn(12, 3)})
    learned, scaled = multitask(weighting=Weighting.LEARNED), multitask(default="nll")
    for loss in (learned, scaled):
        optimiser = torch.optim.LBFGS(loss.parameters(), max_iter=60)

        def total(loss=loss, optimiser=optimiser):
            optimiser.zero_grad()
            value = loss(out, data).total
            value.backward()
            return value

        optimiser.step(total)
    known = ~torch.isnan(data.labels["forces"]).any(1)
    unit, dataset = torch.tensor([0.5, 2.0])[data.dataset][data.graph].unsqueeze(1), data.dataset[data.graph]
    error = (out.forces - data.labels["forces"]) / unit
    for k in range(2):
        mine = error[known & (dataset == k)]
        assert learned.log_loss["forces"][k].exp().item() == pytest.approx(mine.norm(dim=1).mean().item(), rel=1e-2)
        rms = mine.square().mean().sqrt().item()
        assert scaled.log_scale["forces"][k].exp().item() == pytest.approx(rms, rel=1e-2)
    counts = {name: 2 * n for name, n in label_counts(data).items()}
    for loss in (learned, scaled):  # half of a batch has half of the loss
        assert 2 * loss(out, data, counts).total.item() == pytest.approx(loss(out, data).total.item(), rel=1e-5)


def test_records_count_by_their_weights():
    data = batch(structures(), CUTOFF, torch.float32)
    out = Prediction({"energy": torch.randn(3), "forces": torch.randn(12, 3)})
    weights = {"forces": torch.tensor([2.0, 0.0, 1.0])}
    loss, weighted = multitask(), replace(data, weights=weights)
    found, plain = loss(out, weighted).terms, loss(out, data).terms
    assert found["energy"].item() == plain["energy"].item()
    size = ((out.forces - data.labels["forces"]) / torch.tensor([0.5, 2.0])[data.dataset][data.graph, None]).norm(dim=1)
    assert found["forces"].item() == pytest.approx((size * weights["forces"][data.graph]).mean().item(), rel=1e-5)
