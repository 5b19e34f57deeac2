"""Models that are told of total charge and spin multiplicity."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from brute import Structure, batch

from gfm_pipeline.core.contracts.properties.attributes import Attribute, names_in
from gfm_pipeline.core.errors import ModelError
from gfm_pipeline.models import ModelSpec, Potential

CUTOFF = 4.0


def make(conditioning: str, unstated: tuple[str, ...] = ()) -> Potential:
    torch.manual_seed(1)
    spec = ModelSpec("PaiNN", 12, 2, CUTOFF, avg_neighbours=5.0, condition_on=conditioning, unstated=unstated)
    model = Potential(spec).double()
    with torch.no_grad():
        model.node_energy.weight2.mul_(10.0)
    return model


def molecule() -> Structure:
    rng = np.random.default_rng(0)
    return Structure(np.array([8, 1, 1, 6]), rng.normal(scale=1.0, size=(4, 3)))


def energies(model: Potential, *structures: Structure) -> np.ndarray:
    return model(batch(structures, CUTOFF)).energy.numpy()


@pytest.mark.parametrize("conditioning", ["none", "charge", "spin", "charge_and_spin"])
def test_states_of_one_geometry_have_different_energies_where_models_are_told(conditioning):
    model, s = make(conditioning), molecule()
    states = [replace(s, charge=q, spin=m) for q in (-1.0, 0.0, 1.0) for m in (0.0, 1.0, 3.0)]
    found = energies(model, *states).reshape(3, 3)
    by_charge, by_spin = np.ptp(found, axis=0).min(), np.ptp(found, axis=1).min()
    assert (by_charge > 1e-3) == ("charge" in names_in(conditioning))
    assert (by_spin > 1e-3) == ("spin" in names_in(conditioning))
    assert len({round(float(e), 9) for e in found.flat}) == 3 ** len(names_in(conditioning))


def test_neutral_singlets_are_left_as_they_are_and_far_copies_share_the_charge():
    s = molecule()
    told, untold = make("charge_and_spin"), make("none")
    told.load_state_dict(untold.state_dict(), strict=False)
    assert energies(told, replace(s, spin=1.0)) == pytest.approx(energies(untold, s), abs=1e-12)
    two = replace(s, z=np.tile(s.z, 2), pos=np.vstack([s.pos, s.pos + 50.0]))
    one, both = energies(told, replace(s, charge=1.0, spin=2.0), replace(two, charge=2.0, spin=3.0))
    assert both == pytest.approx(2 * one, abs=1e-10)


def test_forces_are_the_gradient_of_the_charged_energy_and_every_parameter_learns():
    model, s, h = make("charge_and_spin"), replace(molecule(), charge=-1.0, spin=2.0), 1e-5
    values = model(batch([s], CUTOFF), training=True).values
    up, down = s.pos.copy(), s.pos.copy()
    up[1, 0] += h
    down[1, 0] -= h
    slope = np.diff(energies(model, replace(s, pos=down), replace(s, pos=up)))[0] / (2 * h)
    assert -slope == pytest.approx(values["forces"][1, 0].item(), abs=1e-6)
    parameters = dict(model.named_parameters())
    (values["energy"].sum() + (values["forces"] ** 2).sum()).backward(inputs=list(parameters.values()))
    unknown = model(batch([molecule()], CUTOFF), training=True).values["energy"].sum()
    unknown.backward(inputs=list(parameters.values()))
    assert [name for name, p in parameters.items() if not p.grad.abs().max() > 0] == []


def test_a_charge_that_is_not_said_is_another_than_none():
    s = molecule()
    silent = replace(s, charge=np.nan, spin=np.nan)
    told = make("charge_and_spin", unstated=("charge", "spin"))
    unknown, bare, neutral = energies(told, silent, replace(s, charge=np.nan, spin=0.0), replace(s, spin=0.0))
    assert unknown == bare
    assert abs(unknown - neutral) > 1e-3
    before = make("charge_and_spin")  # as models were until charges could be missing
    assert energies(before, silent) == energies(before, s)


def test_a_batch_without_attributes_is_neutral_and_of_unknown_multiplicity():
    model = make("charge_and_spin")
    data = batch([molecule()], CUTOFF)
    bare = replace(data, attributes={})
    assert torch.equal(model(bare).energy, model(data).energy)


FIELD = Attribute("field", neutral=1.0)
STRAIN_ENERGY = Attribute("work", extensive=True)
PHASE = Attribute("phase", categories=("ice", "water", "steam"), neutral=1.0)


def test_declared_attributes_have_neutral_values_units_and_categories():
    torch.manual_seed(1)
    spec = ModelSpec("PaiNN", 12, 2, CUTOFF, avg_neighbours=5.0)
    declared = {"attributes": (FIELD, STRAIN_ENERGY, PHASE), "condition_on": "field_and_work_and_phase"}
    plain = Potential(spec).double()
    model = Potential(replace(spec, **declared, unstated=("field",), attribute_scales={"field": 50.0})).double()
    model.load_state_dict(plain.state_dict(), strict=False)
    assert model.conditioning.inner.weight.shape[1] == 1 + 1 + 1 + 2  # field, its absence, work, other phases
    data = batch([molecule()], CUTOFF)

    def energy(where=data, **values: float) -> float:
        stated = {"field": 1.0, "work": 0.0, "phase": 1.0, **values}
        tensors = {name: torch.tensor([value], dtype=torch.float64) for name, value in stated.items()}
        return model(replace(where, attributes=tensors)).energy.item()

    assert energy() == pytest.approx(plain(data).energy.item(), abs=1e-12)
    found = [energy(**one) for one in ({"field": 51.0}, {"field": np.nan}, {"work": 2.0}, {"phase": 0}, {"phase": 2})]
    assert min(abs(a - b) for k, a in enumerate([energy(), *found]) for b in [energy(), *found][:k]) > 1e-4
    far = batch(
        [replace(molecule(), z=np.tile(molecule().z, 2), pos=np.vstack([molecule().pos, molecule().pos + 50]))], CUTOFF
    )
    one, both = energy(field=20.0, work=3.0), energy(far, field=20.0, work=6.0)  # work adds up, the field does not
    assert both == pytest.approx(2 * one, abs=1e-10)


def test_a_model_of_an_attribute_that_nothing_declares_is_refused():
    with pytest.raises(ModelError, match="condition_on names 'fild', which is no attribute here") as caught:
        Potential(ModelSpec("PaiNN", 8, 1, CUTOFF, attributes=(FIELD,), condition_on="fild"))
    assert caught.value.hint.startswith("Did you mean field?")
