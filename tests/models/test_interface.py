"""What every model does beside physics: precision, heads, units, refusals, the registry, losses, old weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from brute import batch, loss_of
from model_cases import CUTOFF, conservative, crossing, crystal, every, make, molecule, predict

from gfm_pipeline.core.errors import ModelError
from gfm_pipeline.models import ForceHead, ModelSpec, Potential, algorithm
from gfm_pipeline.models.registry import describe

pytestmark = pytest.mark.usefixtures("one_thread")


@every
def test_single_and_double_precision_agree(name, head):
    model = make(name, head)
    structures = [molecule(12), crystal(13)]
    double = model(batch(structures, CUTOFF))
    single = model.float()(batch(structures, CUTOFF, torch.float32))
    assert single.energy.dtype == torch.float32
    assert double.energy.dtype == torch.float64
    torch.testing.assert_close(single.energy.double(), double.energy, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(single.forces.double(), double.forces, rtol=1e-3, atol=1e-3)


@every
def test_datasets_have_their_own_heads_and_share_the_representation(name, head):
    model, s = make(name, head), molecule(14)
    e, f = predict(model, s, replace(s, dataset=1), replace(s, dataset=2))
    assert len({round(float(x), 6) for x in e}) == 3
    assert np.abs(f[:7] - f[7:14]).max() > 1e-4
    alone, alone_f = predict(model, replace(s, dataset=2))
    np.testing.assert_allclose(alone[0], e[2], atol=1e-12)
    np.testing.assert_allclose(alone_f, f[14:], atol=1e-11)


@conservative
def test_the_result_is_detached_unless_training(name):
    model = make(name)
    out = model(batch([molecule()], CUTOFF))
    assert not out.energy.requires_grad
    assert not out.forces.requires_grad
    assert model(batch([molecule()], CUTOFF), training=True).forces.requires_grad


@conservative
def test_energy_and_forces_scale_with_the_force_unit(name):
    e, f = predict(make(name), molecule())
    model = make(name)
    model.spec = replace(model.spec, force_rms=2 * model.spec.force_rms)
    e2, f2 = predict(model, molecule())
    np.testing.assert_allclose(e2, 2 * e, rtol=1e-12)
    np.testing.assert_allclose(f2, 2 * f, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"algorithm": "PaiNNN"}, "Did you mean PaiNN"),
        ({"options": {"filter_hiden": 3}}, "filter_hidden"),
        ({"options": {"filter_hidden": 1.5}}, "whole number from 0"),
        ({"hidden": 0}, "hidden must be a whole number from 1"),
        ({"cutoff": -1.0}, "cutoff must be a number from 0.5"),
        ({"n_datasets": 0}, "n_datasets > 0"),
        ({"n_datasets": 1.5}, "whole number of datasets, not 1.5"),
        ({"layers": 0}, "layers must be a whole number from 1"),
        ({"cutoff": np.nan}, "cutoff must be a number from 0.5 to 30, not .nan"),
        ({"avg_neighbours": np.inf}, "avg_neighbours > 0, not inf"),
        ({"avg_log_degree": np.nan}, "avg_log_degree > 0, not nan"),
        ({"attribute_scales": {"field": 0.0}}, "attribute_scales of field > 0"),
        ({"dataset_units": {"energy": (1.0, 2.0)}}, "1 datasets has 2 dataset_units of energy"),
        ({"elements": (8, 200)}, "Atomic number 200 is no element"),
        ({"options": [1]}, "options must map names to values"),
        ({"algorithm": "MACE", "options": {"l_max": 7}}, "l_max must be a whole number from 1 to 3, not 7"),
        ({"algorithm": "MACE", "options": {"correlation": 0}}, "correlation must be a whole number from 1 to 3"),
        ({"algorithm": "painn"}, "Did you mean PaiNN"),
        ({"condition_on": "charge_and_charge"}, "condition_on names charge twice"),
    ],
)
def test_impossible_specs_are_refused_by_name(changes, words):
    with pytest.raises(ModelError, match=words):
        Potential(replace(ModelSpec("SchNet", 8, 1, 4.0), **changes))


def test_an_unknown_dataset_is_refused():
    with pytest.raises(ModelError, match="3 dataset heads"):
        predict(make("SchNet"), replace(molecule(), dataset=3))


@conservative
def test_registry_names_classes_with_options(name):
    for option in describe(name).options:
        assert algorithm(name)(make(name).spec, {o.name: o.default for o in describe(name).options})
        make(name, options={option.name: option.default})


def test_schnet_with_the_papers_filter_network_is_smooth_and_conservative():
    model = make("SchNet", options={"filter_hidden": 16})
    h = 1e-4
    s = molecule(3)
    _, force = predict(model, s)
    up, down = s.pos.copy(), s.pos.copy()
    up[1, 2] += h
    down[1, 2] -= h
    slope = (predict(model, replace(s, pos=up))[0][0] - predict(model, replace(s, pos=down))[0][0]) / (2 * h)
    assert -slope == pytest.approx(force[1, 2], abs=1e-5)
    tiny = [predict(model, x) for x in crossing(False, np.array([CUTOFF - 1e-7, CUTOFF + 1e-7]))]
    np.testing.assert_allclose(tiny[0][1], tiny[1][1], atol=1e-10)


def test_loss_leaves_missing_labels_out_but_shows_a_diverged_model():
    model = make("SchNet")
    a, b = molecule(1), molecule(2)
    full = batch([replace(a, energy=1.0, forces=np.ones((7, 3)))], CUTOFF)
    mixed = batch(
        [
            replace(a, energy=1.0, forces=np.ones((7, 3))),
            replace(b, energy=np.nan, forces=np.full((7, 3), np.nan)),
        ],
        CUTOFF,
    )
    want = loss_of(model, full, force_weight=1.5)
    got = loss_of(model, mixed, force_weight=1.5)
    assert got.total.item() == pytest.approx(want.total.item(), rel=1e-12)
    parameters = list(model.parameters())
    got.total.backward(inputs=parameters)
    assert all(bool(p.grad.isfinite().all()) for p in parameters)
    with torch.no_grad():
        model.node_energy.bias2.fill_(float("nan"))
    assert torch.isnan(loss_of(model, full).total)


@pytest.mark.parametrize("head", list(ForceHead))
def test_weights_saved_under_the_former_names_of_parts_load(head):
    """Checkpoints written before 2026-11-30 call the parts trunk, direct and edge_vectors."""
    model = Potential(ModelSpec("SchNet", 8, 1, 3.0, force_head=head))
    former = {"representation": "trunk", "force_head": "direct", "vector_features": "edge_vectors"}
    saved = {}
    for name, tensor in model.state_dict().items():
        part, _, rest = name.partition(".")
        saved[f"{former.get(part, part)}.{rest}"] = tensor + 1.0
    assert saved.keys() != model.state_dict().keys()
    model.load_state_dict(saved)
    for name, tensor in model.state_dict().items():
        part, _, rest = name.partition(".")
        assert torch.equal(tensor, saved[f"{former.get(part, part)}.{rest}"]), name
