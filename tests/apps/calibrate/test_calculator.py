"""The ASE calculator: members, weights, gradients, relaxations, precision, and refusals."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.io import read, write
from ase.optimize import BFGS
from ensemble_cases import MAKERS, metal, wet

from gfm_pipeline.apps.calculator import GFMCalculator
from gfm_pipeline.apps.calibrate.ensemble import Ensemble, load_ensemble
from gfm_pipeline.apps.dataset import Dataset
from gfm_pipeline.apps.deploy.predict import predict_files
from gfm_pipeline.apps.deploy.predictor import Predictor
from gfm_pipeline.core.contracts.data import SourceSettings, Split
from gfm_pipeline.core.contracts.deploy import OutOfDomain, PredictFilesSpec
from gfm_pipeline.core.contracts.evaluation import (
    CalibrateResult,
    MemberRef,
)
from gfm_pipeline.core.contracts.training import DatasetRef
from gfm_pipeline.core.errors import IntegrityError, ModelError

# the calculator


@pytest.fixture(scope="module")
def wet_calculator(result: CalibrateResult, root: Path) -> GFMCalculator:
    return GFMCalculator.from_campaign(root, "wet")


def test_calculator_equals_the_predictions_of_the_members(
    result: CalibrateResult, members: tuple[MemberRef, ...], datasets: tuple[DatasetRef, ...]
) -> None:
    for ref in datasets:
        calculator = GFMCalculator.from_ensemble(result.output, ref.name)
        columns = Dataset.open(Path(ref.path)).columns(Split.TEST)
        report, halfwidths, inside = result.datasets[ref.name], [], []
        files = [np.load(Path(m.predictions) / f"{ref.name}-testset.npz") for m in members]
        shares = np.array([report.weights[m.name] for m in members])
        assert calculator.weights == report.weights
        assert report.effective_members == pytest.approx(1.0 / np.sum(shares**2))

        def mean_and_std(values: list[np.ndarray], shares: np.ndarray = shares) -> tuple[np.ndarray, np.ndarray]:
            mean = np.average(values, axis=0, weights=shares)
            unbiased = np.average((np.stack(values) - mean) ** 2, axis=0, weights=shares) / (1.0 - np.sum(shares**2))
            return mean, np.sqrt(unbiased)

        for g in range(len(columns)):
            rows = slice(columns.offsets[g], columns.offsets[g + 1])
            atoms = Atoms(columns.numbers[rows], columns.pos[rows], cell=columns.cell[g], pbc=columns.pbc[g])
            atoms.calc = calculator
            n = len(atoms)
            energy, energy_std = mean_and_std([f["energy"][g] for f in files])
            forces, forces_std = mean_and_std([f["forces"][rows] for f in files])
            assert atoms.get_potential_energy() == pytest.approx(energy, abs=1e-3)
            np.testing.assert_allclose(atoms.get_forces(), forces, atol=1e-3)
            found = calculator.results
            assert found["energy_std"] == pytest.approx(energy_std, abs=1e-3)
            np.testing.assert_allclose(found["forces_std"], forces_std, atol=1e-3)
            halfwidths.append(found["energy_interval"] / n)
            inside.append(abs(found["energy"] - columns.energy[g]) <= found["energy_interval"])
            assert found["forces_std"].shape == found["forces_interval"].shape == (n, 3)
        assert np.mean(halfwidths) == pytest.approx(report.energy.interval_halfwidth, rel=1e-3)
        assert np.mean(inside) == pytest.approx(report.energy.coverage_calibrated, abs=1.01 / len(columns))


def reweighted(path: str, dataset: str, weights: dict[str, float]) -> Ensemble:
    """Return the ensemble in ``path`` with other weights for one dataset."""
    ensemble = load_ensemble(Path(path))
    changed = replace(ensemble.calibration.datasets[dataset], weights=weights)
    datasets = {**ensemble.calibration.datasets, dataset: changed}
    return replace(ensemble, calibration=replace(ensemble.calibration, datasets=datasets))


def test_weights_mix_the_members_and_none_written_are_equal(result: CalibrateResult) -> None:
    atoms = wet(np.random.default_rng(8))

    def energy_and_spread(weights: dict[str, float]) -> tuple[float, float]:
        atoms.calc = GFMCalculator(reweighted(result.output, "wet", weights), "wet")
        return float(atoms.get_potential_energy()), float(atoms.calc.results["energy_std"])

    (first, alone), (second, _) = energy_and_spread({"m0": 1.0, "m1": 0.0}), energy_and_spread({"m0": 0.0, "m1": 1.0})
    assert alone == 0.0
    assert first != second
    mean, spread = energy_and_spread({"m1": 0.3, "m0": 0.7})  # by name, in any order
    assert mean == pytest.approx(0.7 * first + 0.3 * second, rel=1e-12)
    # Two values: w1 w2 (x1 - x2)^2 / (1 - w1^2 - w2^2) is (x1 - x2)^2 / 2 whatever the weights.
    assert spread == pytest.approx(abs(first - second) / np.sqrt(2.0), rel=1e-9)
    assert energy_and_spread({}) == energy_and_spread({"m0": 0.5, "m1": 0.5})


def test_a_composition_that_the_references_are_a_guess_for_is_warned_of(
    result: CalibrateResult, wet_calculator: GFMCalculator
) -> None:
    ensemble = load_ensemble(Path(result.output))
    found = ensemble.calibration.datasets["wet"]
    assert found.elements == ("H", "O")
    water_only = replace(found, undetermined=((-1 / np.sqrt(5), 2 / np.sqrt(5)),))  # normal to two H and one O
    datasets = {**ensemble.calibration.datasets, "wet": water_only}
    calculator = GFMCalculator(replace(ensemble, calibration=replace(ensemble.calibration, datasets=datasets)), "wet")
    for name, guessed in (("H2O", False), ("H2O2", True)):
        atoms, same = molecule(name), molecule(name)
        atoms.calc, same.calc = calculator, wet_calculator
        with pytest.warns(UserWarning, match="reference energy of H2O2") if guessed else nullcontext():
            energy = atoms.get_potential_energy()
        assert energy == same.get_potential_energy()
        assert np.isinf(calculator.results["energy_interval"]) == guessed
        assert len(calculator.results["warnings"]) == guessed
        assert wet_calculator.results["warnings"] == ()
    atoms.rattle(0.01)
    atoms.get_potential_energy()  # each composition is warned of once, and warnings are errors here
    assert len(calculator.results["warnings"]) == 1


@pytest.mark.parametrize("weights", [{"m0": 1.0}, {"m0": 1.5, "m1": -0.5}, {"m0": 0.5, "m1": 0.4}])
def test_weights_that_are_no_shares_are_refused(weights: dict[str, float], result: CalibrateResult) -> None:
    with pytest.raises(IntegrityError, match="weights of wet are not shares of the members m0, m1"):
        GFMCalculator(reweighted(result.output, "wet", weights), "wet")


@pytest.mark.parametrize("name", ["wet", "metal"])
@pytest.mark.parametrize("share", [None, 0.85])
def test_forces_are_minus_the_gradient(name: str, share: float | None, result: CalibrateResult) -> None:
    calculator = GFMCalculator.from_ensemble(result.output, name)
    if share is not None:
        calculator = GFMCalculator(reweighted(result.output, name, {"m0": share, "m1": 1.0 - share}), name)
    assert calculator.conservative
    atoms = MAKERS[name](np.random.default_rng(5))
    atoms.calc = calculator
    forces, step = atoms.get_forces(), 1e-4
    for atom, axis in ((0, 0), (1, 2)):
        energies = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[atom, axis] += sign * step
            moved.calc = calculator
            energies.append(moved.get_potential_energy())
        assert -(energies[0] - energies[1]) / (2 * step) == pytest.approx(forces[atom, axis], abs=1e-6)


def test_a_molecule_relaxes(wet_calculator: GFMCalculator, tmp_path: Path) -> None:
    atoms = molecule("H2O")
    atoms.rattle(0.08, seed=2)
    atoms.calc = wet_calculator
    before, energy = np.linalg.norm(atoms.get_forces(), axis=1).max(), atoms.get_potential_energy()
    with BFGS(atoms, logfile=None, trajectory=str(tmp_path / "relax.traj"), maxstep=0.05) as optimiser:
        optimiser.run(fmax=0.02, steps=60)
    after = np.linalg.norm(atoms.get_forces(), axis=1).max()
    assert after < 0.2 * before
    assert atoms.get_potential_energy() < energy
    assert len(read(tmp_path / "relax.traj", ":")) > 2
    write(tmp_path / "relaxed.xyz", atoms)
    assert read(tmp_path / "relaxed.xyz").get_potential_energy() == pytest.approx(atoms.get_potential_energy())


def test_a_supercell_has_the_energy_of_its_parts(result: CalibrateResult) -> None:
    calculator = GFMCalculator.from_ensemble(result.output, "metal")
    atoms = metal(np.random.default_rng(6))
    double = atoms.repeat((2, 1, 1))
    atoms.calc = double.calc = calculator
    small, forces = atoms.get_potential_energy(), atoms.get_forces()
    assert double.get_potential_energy() == pytest.approx(2 * small, rel=1e-9)
    np.testing.assert_allclose(double.get_forces()[: len(atoms)], forces, atol=1e-8)


def test_single_precision_is_close(result: CalibrateResult, wet_calculator: GFMCalculator) -> None:
    atoms = wet(np.random.default_rng(7))
    atoms.calc = wet_calculator
    exact = atoms.get_forces()
    atoms.calc = GFMCalculator.from_ensemble(result.output, "wet", dtype="float32")
    np.testing.assert_allclose(atoms.get_forces(), exact, atol=1e-3)


def test_what_the_ensemble_cannot_do_is_said(result: CalibrateResult, wet_calculator: GFMCalculator) -> None:
    with pytest.raises(ModelError, match="2 datasets: wet, metal"):
        GFMCalculator.from_ensemble(result.output)
    with pytest.raises(ModelError, match="no dataset 'dry'"):
        GFMCalculator.from_ensemble(result.output, "dry")
    with pytest.raises(ModelError, match="float16"):
        GFMCalculator.from_ensemble(result.output, "wet", dtype="float16")
    methane = molecule("CH4")
    methane.calc = wet_calculator
    with pytest.raises(ModelError, match=r"wet holds no C, .* It knows H, O"):
        methane.get_potential_energy()
    nothing = Atoms()
    nothing.calc = wet_calculator
    with pytest.raises(ModelError, match="no atoms"):
        nothing.get_potential_energy()


def test_what_is_outside_is_answered_warned_of_or_refused(
    result: CalibrateResult, datasets: tuple[DatasetRef, ...], tmp_path: Path
) -> None:
    columns = Dataset.open(Path(datasets[0].path)).columns(Split.TEST)
    inside = Atoms(numbers=columns.numbers[: columns.offsets[1]], positions=columns.pos[: columns.offsets[1]])
    outside = inside.copy()
    outside.positions *= 0.6
    ensemble = load_ensemble(Path(result.output))
    warned = Predictor(ensemble, "wet", on_out_of_domain="warn").predict([inside, outside])
    assert [any("in_domain" in w for w in found["warnings"]) for found in warned] == [False, True]
    refusing = GFMCalculator(ensemble, "wet", on_out_of_domain="refuse")
    assert len(refusing.predict([inside])) == 1
    outside.calc = refusing
    with pytest.raises(ModelError, match="unlike the training data of wet"):
        refusing.energy_difference(inside, outside)
    with pytest.raises(ModelError, match=r"unlike the training data of wet .* times as far as the threshold"):
        outside.get_potential_energy()
    with pytest.raises(ModelError, match="on_out_of_domain is 'ignore'"):
        Predictor(ensemble, "wet", on_out_of_domain="ignore")
    with pytest.raises(ModelError, match="cannot tell what is unlike"):
        Predictor(replace(ensemble, domains={}), "wet", on_out_of_domain="refuse")

    file = tmp_path / "both.xyz"
    write(file, [Atoms(a.numbers, a.positions) for a in (inside, outside, inside)])
    facts = {
        policy: predict_files(
            PredictFilesSpec(
                result.output, SourceSettings("files", "ase", (str(file),)), dataset="wet", on_out_of_domain=policy
            )
        )
        for policy in OutOfDomain
    }
    assert [f.structures for f in facts.values()] == [3, 3, 2]
    assert [f.outside for f in facts.values()] == [1, 1, 0]
    assert [sum(f.warnings.values()) for f in facts.values()] == [0, 1, 0]
    assert "record 1: The structure is unlike the training data of wet" in facts[OutOfDomain.REFUSE].refused[0]


def test_differences_of_energies_have_intervals_of_their_own(result: CalibrateResult) -> None:
    found = result.datasets["metal"].difference
    assert found is not None
    assert found.n > 40
    assert found.coverage == pytest.approx(0.8, abs=0.15)
    calculator = GFMCalculator.from_ensemble(result.output, "metal")
    rng = np.random.default_rng(5)
    first = metal(rng)
    second = first.copy()
    second.positions += rng.normal(scale=0.05, size=second.positions.shape)
    near, far = calculator.predict([first, second])
    difference = calculator.energy_difference(first, second)
    assert difference["energy_difference"] == pytest.approx(near["energy"] - far["energy"], abs=1e-6)
    assert difference["energy_difference_interval"] > 0.0
    # A crystal and twice of it are one thing, and a vacancy is small beside its crystal.
    double = calculator.energy_difference(first.repeat((2, 1, 1)), first)
    assert double["energy_difference"] == pytest.approx(0.0, abs=1e-6)
    assert double["energy_difference_interval"] <= 2.0 * difference["energy_difference_interval"]
    crystal = bulk("Cu", "fcc", a=3.8, cubic=True).repeat(2)
    vacancy = crystal.copy()
    del vacancy[0]
    formation = calculator.energy_difference(vacancy, crystal)
    per_atom = calculator.predict([vacancy])[0]["energy"] / 31 - calculator.predict([crystal])[0]["energy"] / 32
    assert formation["energy_difference"] == pytest.approx(31 * per_atom, abs=1e-6)
    with pytest.raises(ModelError, match="no difference of the energies of Cu32 and AuCu3"):
        calculator.energy_difference(crystal, Atoms("Cu3Au", positions=4.0 * np.eye(4, 3)))


def test_crystals_without_forces_have_no_intervals_of_forces(result: CalibrateResult) -> None:
    """Forces that vanish by symmetry do so for the label too, where the environment is known."""
    calculator = GFMCalculator.from_ensemble(result.output, "metal")
    (found,) = calculator.predict([bulk("Cu", "fcc", a=3.8, cubic=True)])
    assert np.abs(found["forces"]).max() < 1e-8
    if found["in_domain"]:
        assert found["forces_interval"].max() < 1e-3 * result.datasets["metal"].forces.interval_halfwidth
