"""The loss: a sum over targets, each in units of its scale, over the labels that are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from brute import Structure, batch

from gfm_pipeline.core.contracts.targets import DEFAULT, DIPOLE, STRESS, Level, Rank, Target
from gfm_pipeline.core.errors import ModelError
from gfm_pipeline.models import ModelSpec, Potential, multitask_loss
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
