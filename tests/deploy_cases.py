"""Ensembles for tests of finished models in use: one that learned copper and water, and ones of random weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT

from gfm_pipeline.apps.calibrate.ensemble import Ensemble
from gfm_pipeline.apps.deploy.bundle import open_ensemble
from gfm_pipeline.apps.train.checkpoint import TrainedModel
from gfm_pipeline.models import ModelSpec, Potential

CAMPAIGN = Path(__file__).parent / "reliability" / "fixtures" / "campaign-v1" / "campaign"
EMT_BUNDLE = Path(__file__).parent / "apps" / "fixtures" / "emt-v1.gfm"  # see record_emt_bundle.py beside it


def emt_crystals(n: int = 9) -> list[Atoms]:
    """Return shaken crystals of copper, gold and nickel, labelled by EMT, of two values of ``config_type``."""
    frames = []
    for k in range(n):
        atoms = bulk(("Cu", "Au", "Ni")[k % 3], cubic=k % 2 == 0)
        atoms.rattle(0.08, seed=k)
        atoms.calc = EMT()
        atoms.get_forces()
        atoms.info["config_type"] = f"kind{k % 2}"
        frames.append(atoms)
    return frames


def ensemble_of(references: Mapping[str, float], members: Sequence[Potential]) -> Ensemble:
    """Return models as an ensemble that knows the elements of ``references``, calibrated as a recorded one."""
    found = open_ensemble(CAMPAIGN)
    (dataset,) = found.members[0].datasets
    names = tuple(f"m{number:02d}" for number in range(len(members)))
    shares = dict.fromkeys(names, 1.0 / len(names))
    of_dataset = replace(found.calibration.datasets[dataset], elements=tuple(references), weights=shares)
    calibration = replace(found.calibration, members=names, datasets={dataset: of_dataset})
    card = replace(found.members[0].card, references={dataset: dict(references)})
    trained = []
    for one in members:
        model = replace(card.model, force_head=one.spec.force_head)
        trained.append(TrainedModel(one.eval(), replace(card, spec=one.spec, model=model)))  # evaluation mode of torch
    return replace(found, calibration=calibration, members=tuple(trained), domains={})


def random_potential(seed: int, **settings: Any) -> Potential:
    """Return a small model with random weights, in float64, whose forces are of the order of eV/Angstrom."""
    torch.manual_seed(seed)
    sizes: dict[str, Any] = {"algorithm": "PaiNN", "hidden": 8, "layers": 2, "cutoff": 4.0, "n_radial": 6, **settings}
    potential = Potential(ModelSpec(**sizes)).double()
    with torch.no_grad():
        for name, weights in potential.named_parameters():
            if name.endswith("weight2"):
                weights.mul_(10.0)
    return potential
