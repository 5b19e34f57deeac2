"""Ensembles as programs without Python: the numbers of the ensemble, for structures of any size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from deploy_cases import EMT_BUNDLE, ensemble_of, random_potential

from gfm_pipeline.apps.deploy.bundle import open_ensemble
from gfm_pipeline.apps.deploy.compiled import OUTPUTS, compile_package, export_program, package_inputs
from gfm_pipeline.apps.deploy.predictor import Predictor
from gfm_pipeline.core.errors import ConfigError, ModelError
from gfm_pipeline.models import ForceHead


def structures() -> list[Atoms]:
    crystal = bulk("Cu", cubic=True).repeat((2, 1, 1))
    crystal.rattle(0.1, seed=0)
    water = molecule("H2O")
    water.rattle(0.05, seed=1)
    return [crystal, water]


def same_numbers(predictor: Predictor, run: Callable[..., Any]) -> None:
    for atoms in structures():
        found = dict(zip(OUTPUTS, run(*package_inputs(predictor, atoms)), strict=True))
        (expected,) = predictor.predict([atoms], stress=True)
        for name in ("energy", "forces", "energy_std", "forces_std"):
            torch.testing.assert_close(
                found[name].squeeze(), torch.as_tensor(expected[name], dtype=torch.float64), rtol=0, atol=1e-9
            )
        if atoms.pbc.all():
            virial = torch.as_tensor(expected["stress"]) * atoms.get_volume()
            torch.testing.assert_close(found["virial"], virial, rtol=0, atol=1e-9)


def test_the_exported_program_has_the_numbers_of_the_ensemble() -> None:
    members = [random_potential(seed, algorithm="SchNet", layers=1) for seed in (0, 1)]
    predictor = Predictor(ensemble_of({"Cu": -3.0, "H": 1.0, "O": 2.0}, members))
    same_numbers(predictor, export_program(predictor).module())


@pytest.mark.long
def test_the_compiled_package_has_the_numbers_of_the_ensemble(tmp_path: Path) -> None:
    predictor = Predictor(open_ensemble(EMT_BUNDLE))
    package = compile_package(predictor, tmp_path / "model.pt2")
    same_numbers(predictor, torch._inductor.aoti_load_package(str(package)))


def test_what_does_not_compile_is_refused(tmp_path: Path) -> None:
    def refused(*members: Any) -> None:
        compile_package(Predictor(ensemble_of({"Cu": 0.0}, members)), tmp_path / "model.pt2")

    with pytest.raises(ModelError, match="Only energies with conservative forces compile"):
        refused(random_potential(0, force_head=ForceHead.DIRECT))
    with pytest.raises(ModelError, match="The members have several cutoffs"):
        refused(random_potential(0), random_potential(1, cutoff=5.0))
    with pytest.raises(ConfigError, match=r"does not end in \.pt2"):
        compile_package(Predictor(open_ensemble(EMT_BUNDLE)), tmp_path / "model.so")
