"""Ensembles as programs without Python: the numbers of the ensemble, for structures of any size."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from deploy_cases import EMT_BUNDLE, ensemble_of, random_potential

from gfm_pipeline.apps.calculator import GFMCalculator
from gfm_pipeline.apps.deploy.bundle import open_ensemble
from gfm_pipeline.apps.deploy.compiled import OUTPUTS, compile_package, export_program, package_inputs
from gfm_pipeline.apps.deploy.predictor import Predictor
from gfm_pipeline.cli.main import invoke
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


@pytest.mark.long
def test_the_program_in_cpp_gives_the_numbers_of_ase(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if shutil.which("cmake") is None or shutil.which("c++") is None:
        pytest.skip("no cmake or no C++ compiler")
    folder, package = tmp_path / "cpp", tmp_path / "model.pt2"
    shutil.copytree(Path(__file__).parents[2] / "examples" / "cpp", folder)
    prefix = f"-DCMAKE_PREFIX_PATH={torch.utils.cmake_prefix_path}"
    for command in (["cmake", "-B", "build", prefix], ["cmake", "--build", "build"]):
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
    assert invoke(["export", str(EMT_BUNDLE), "--output", str(package), "--dtype", "float64"]) == 0
    assert "examples/cpp" in capsys.readouterr().out
    calculator = GFMCalculator(EMT_BUNDLE, dtype="float64")
    for atoms in structures():
        lines = [str(len(atoms)), *(" ".join(map(repr, row)) for row in (atoms.cell * atoms.pbc[:, None]).tolist())]
        pairs = zip(atoms.numbers, atoms.positions.tolist(), strict=True)
        lines += [f"{z} {' '.join(map(repr, p))}" for z, p in pairs]
        (folder / "structure.txt").write_text("\n".join(lines) + "\n")
        words = [str(folder / "build" / "energy"), str(package), "structure.txt"]
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        energy, *forces = [list(map(float, re.findall(r"-?\d+\.\d+", line))) for line in done.stdout.splitlines()]
        atoms.calc = calculator
        assert energy[0] == pytest.approx(atoms.get_potential_energy(), abs=1e-6)
        torch.testing.assert_close(torch.tensor(forces), torch.tensor(atoms.get_forces()).float(), rtol=0, atol=1e-5)


def test_what_does_not_compile_is_refused(tmp_path: Path) -> None:
    def refused(*members: Any) -> None:
        compile_package(Predictor(ensemble_of({"Cu": 0.0}, members)), tmp_path / "model.pt2")

    with pytest.raises(ModelError, match="Only energies with conservative forces compile"):
        refused(random_potential(0, force_head=ForceHead.DIRECT))
    with pytest.raises(ModelError, match="The members have several cutoffs"):
        refused(random_potential(0), random_potential(1, cutoff=5.0))
    with pytest.raises(ConfigError, match=r"does not end in \.pt2"):
        compile_package(Predictor(open_ensemble(EMT_BUNDLE)), tmp_path / "model.so")
