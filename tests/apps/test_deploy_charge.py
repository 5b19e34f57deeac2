"""Total charge and multiplicity of structures that a finished ensemble predicts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from ase.build import bulk

from gfm_pipeline.apps.calculator import GFMCalculator
from gfm_pipeline.apps.deploy.bundle import export, open_ensemble
from gfm_pipeline.apps.deploy.predictor import Predictor
from gfm_pipeline.core.contracts.properties.attributes import names_in
from gfm_pipeline.core.errors import ModelError
from gfm_pipeline.models import Potential

CAMPAIGN = Path(__file__).parents[1] / "reliability" / "fixtures" / "campaign-v1" / "campaign"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("model") / "model.gfm"
    export(CAMPAIGN, output)
    return output


def told(model: Path, conditioning: str, unstated: tuple[str, ...] = ("charge",)) -> Predictor:
    """An ensemble whose members were told of charge or not, on a dataset of charges from -1 to 1."""
    ensemble = open_ensemble(model)
    dataset = ensemble.members[0].datasets[0]
    members = []
    for number, member in enumerate(ensemble.members):
        torch.manual_seed(number)
        spec = replace(member.card.spec, condition_on=conditioning, unstated=names_in(conditioning))
        attributes = {dataset: {"charge": (-1.0, 1.0)}}
        card = replace(member.card, spec=spec, attributes=attributes, unstated={dataset: unstated})
        potential = Potential(spec)
        potential.load_state_dict(member.potential.state_dict(), strict=False)
        members.append(replace(member, potential=potential.eval(), card=card))  # torch's evaluation mode
    return Predictor(replace(ensemble, members=tuple(members)), dataset)


def test_charge_states_of_one_geometry_differ_where_models_were_told_of_charge(model: Path) -> None:
    predictor = told(model, "charge")
    states = [bulk("Cu", cubic=True) for _ in range(3)]
    for atoms, charge in zip(states, (0, 1, -1), strict=True):
        atoms.info["charge"] = charge
    results = predictor.predict(states)
    assert len({round(found["energy"], 6) for found in results}) == 3
    assert all(not found["warnings"] for found in results)
    states[0].info["charge"] = 4
    (sentence,) = predictor.predict(states)[0]["warnings"]
    assert "has structures of charge -1 e to 1 e, and this one has 4 e" in sentence
    calculator = GFMCalculator(predictor.ensemble, predictor.dataset)
    atoms = states[1]
    atoms.calc = calculator
    charged = atoms.get_potential_energy()
    atoms.info["charge"] = 0  # ASE itself would answer from what it remembers
    assert atoms.get_potential_energy() == pytest.approx(results[0]["energy"])
    assert atoms.get_potential_energy() != pytest.approx(charged, abs=1e-6)


def test_a_charge_that_is_not_said_is_unknown_or_assumed_as_models_were_trained(model: Path) -> None:
    silent, neutral = bulk("Cu", cubic=True), bulk("Cu", cubic=True)
    neutral.info["charge"] = 0
    unknown, known = told(model, "charge").predict([silent, neutral])
    assert unknown["warnings"] == known["warnings"] == ()
    assert unknown["energy"] != pytest.approx(known["energy"], abs=1e-6)
    assumed, known = told(model, "charge", unstated=()).predict([silent, neutral])
    assert assumed["energy"] == pytest.approx(known["energy"])
    assert "this one does not say it: 0 e was assumed" in assumed["warnings"][0]


def test_models_that_were_not_told_of_charge_say_so(model: Path) -> None:
    predictor = told(model, "none")
    atoms = bulk("Cu", cubic=True)
    (neutral,) = predictor.predict([atoms])
    atoms.info["total_charge"] = 1.0
    (charged,) = predictor.predict([atoms])
    assert (neutral["warnings"], neutral["energy"]) == ((), charged["energy"])
    assert "were not told of the charge" in charged["warnings"][0]
    atoms.info["total_charge"] = "plus one"
    with pytest.raises(ModelError, match=r"atoms.info\['total_charge'\] is 'plus one', which is not a number"):
        predictor.predict([atoms])
