"""From checkpoints to the deployable ensemble and its ASE calculator, on labels of ASE's EMT."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.io import read, write
from ase.optimize import BFGS

from gfm_pipeline.apps.calculator import GFMCalculator
from gfm_pipeline.apps.calibrate.ensemble import Ensemble, find_ensemble, load_ensemble
from gfm_pipeline.apps.calibrate.fit import calibrate
from gfm_pipeline.apps.calibrate.predict import predict, predict_columns
from gfm_pipeline.apps.dataset import Columns, Dataset, write_bp
from gfm_pipeline.apps.deploy.bundle import export, open_ensemble
from gfm_pipeline.apps.deploy.predictor import Predictor
from gfm_pipeline.apps.runtime.program import StopRequested, Task
from gfm_pipeline.apps.train.checkpoint import load_model
from gfm_pipeline.apps.train.task import train
from gfm_pipeline.core.contracts.data import Split
from gfm_pipeline.core.contracts.dataset_statistics import DatasetStatistics
from gfm_pipeline.core.contracts.evaluation import (
    EVALUATION_FILE,
    FIGURES_FILE,
    MODEL_CARD_FILE,
    CalibrateResult,
    CalibrateSpec,
    MemberRef,
    PredictResult,
    PredictSpec,
    figure_key,
)
from gfm_pipeline.core.contracts.task import ERROR_FILE, RESULT_FILE, STOP_FILE, ExitCode
from gfm_pipeline.core.contracts.training import DatasetRef, ModelSettings, OptimiserSettings, TrainSpec
from gfm_pipeline.core.errors import DataError, IntegrityError, ModelError
from gfm_pipeline.core.publish import is_published, publishing, read_manifest, write_record
from gfm_pipeline.core.records import read_record

LEVEL = 0.8
REFERENCES = {"wet": {"H": -13.5, "O": -431.25}, "metal": {"Cu": -1640.5, "Au": -3690.75}}
SIZES = {Split.TRAIN: 96, Split.VALIDATION: 48, Split.TEST: 48}


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def wet(rng: np.random.Generator) -> Atoms:
    atoms = molecule(("H2O", "H2O2", "O2", "OH")[int(rng.integers(4))])
    atoms.positions += rng.normal(scale=0.06, size=atoms.positions.shape)
    return atoms


def metal(rng: np.random.Generator) -> Atoms:
    atoms = bulk("Cu", "fcc", a=3.8, cubic=True)
    atoms.symbols = rng.choice(["Cu", "Au"], len(atoms))
    atoms.positions += rng.normal(scale=0.08, size=atoms.positions.shape)
    return atoms


MAKERS: dict[str, Callable[[np.random.Generator], Atoms]] = {"wet": wet, "metal": metal}


def labelled(name: str, n: int, rng: np.random.Generator) -> Columns:
    found = [MAKERS[name](rng) for _ in range(n)]
    energy = []
    for atoms in found:
        atoms.calc = EMT()
        energy.append(atoms.get_potential_energy() + sum(REFERENCES[name][s] for s in atoms.symbols))
    return Columns.build(
        numbers=np.concatenate([a.numbers for a in found]),
        pos=np.concatenate([a.positions for a in found]),
        forces=np.concatenate([a.get_forces() for a in found]),
        energy=np.array(energy),
        cell=np.stack([a.cell.array for a in found]),
        pbc=np.stack([a.pbc for a in found]),
        natoms=np.array([len(a) for a in found]),
        group=np.arange(n) // 2,
    )


def publish_dataset(folder: Path, name: str) -> DatasetRef:
    rng = np.random.default_rng([3, *name.encode()])
    splits = {split: labelled(name, n, rng) for split, n in SIZES.items()}
    counts = {str(split): n for split, n in SIZES.items()}
    elements = tuple(REFERENCES[name])
    statistics = DatasetStatistics(
        name=name,
        n_structures=counts,
        n_atoms={str(s): int(c.natoms.sum()) for s, c in splits.items()},
        n_groups=counts,
        elements=elements,
        reference=REFERENCES[name],
        reference_rank=2,
        reference_from="isolated atoms",
        force_rms=float(np.sqrt(np.mean(splits[Split.TRAIN].forces ** 2))),
        energy_std=0.1,
        null_energy_mae=dict.fromkeys(counts, 0.5),
        null_force_mae={str(s): float(np.abs(c.forces).mean()) for s, c in splits.items()},
        max_atoms=4,
        n_quarantined=0,
        reasons={},
    )
    with publishing(folder / name, "test") as place:
        numbers = {8: -431.25, 1: -13.5} if name == "wet" else {29: -1640.5, 79: -3690.75}
        write_bp(place / f"{name}.bp", name, splits, numbers)
        write_record(place / "statistics.json", statistics)
    return DatasetRef(name, str(folder / name))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("campaign")


@pytest.fixture(scope="module")
def datasets(root: Path) -> tuple[DatasetRef, ...]:
    return tuple(publish_dataset(root / "datasets", name) for name in ("wet", "metal"))


def task_in(folder: Path) -> Task:
    folder.mkdir(parents=True, exist_ok=True)
    return Task(folder)


@pytest.fixture(scope="module")
def members(root: Path, datasets: tuple[DatasetRef, ...]) -> tuple[MemberRef, ...]:
    """Two members with different cutoffs, trained for a moment and predicted; the second one as a process."""
    found = []
    for name, algorithm, cutoff in (("m0", "SchNet", 3.0), ("m1", "PaiNN", 3.6)):
        spec = TrainSpec(
            task=name,
            model=ModelSettings(algorithm, hidden=16, layers=2, cutoff=cutoff),
            optimiser=OptimiserSettings(learning_rate=5e-3, batch_size=8, force_weight=5.0, warmup=10),
            datasets=datasets,
            seed=len(found),
            output=str(root / "checkpoints" / name),
            budget_graphs=1600,
            validate_every=1600,
        )
        assert train(spec, task_in(root / "train" / name))[0].checkpoint is not None
        request = PredictSpec(name, spec.output, datasets, str(root / "predictions" / name), batch_size=13)
        folder = root / "predict" / name
        if name == "m0":
            predict(request, task_in(folder))
        else:
            folder.mkdir(parents=True)
            write_record(folder / "spec.json", request)
            command = [sys.executable, "-m", "gfm_pipeline.apps.calibrate.predict", "spec.json"]
            subprocess.run(command, cwd=folder, check=True, timeout=120)
            result = read_record(PredictResult, folder / RESULT_FILE)
            assert result.digest == read_manifest(Path(result.output)).digest
        found.append(MemberRef(name, spec.output, request.output))
    return tuple(found)


@pytest.fixture(scope="module")
def result(root: Path, datasets: tuple[DatasetRef, ...], members: tuple[MemberRef, ...]) -> CalibrateResult:
    output = root / "stages" / "calibrate-abc" / "ensemble"
    return calibrate(CalibrateSpec(members, datasets, LEVEL, str(output), seed=1), task_in(root / "fit"))


# predictions


def test_predictions_do_not_depend_on_batches_and_carry_the_references(
    members: tuple[MemberRef, ...], datasets: tuple[DatasetRef, ...]
) -> None:
    model = load_model(Path(members[0].checkpoint))
    for ref in datasets:
        columns = Dataset.open(Path(ref.path)).columns(Split.TEST)
        values = predict_columns(model, columns, ref.name, batch_size=1)
        with np.load(Path(members[0].predictions) / f"{ref.name}-testset.npz") as file:
            np.testing.assert_allclose(file["energy"], values["energy"], atol=2e-4)
            np.testing.assert_allclose(file["forces"], values["forces"], atol=2e-4)
            np.testing.assert_array_equal(file["energy_label"], columns.energy)
            np.testing.assert_array_equal(file["forces_label"], columns.forces)
            np.testing.assert_array_equal(file["group"], columns.group)
            assert (np.abs(file["energy"] - file["energy_label"]) < 20.0).all()
            assert (np.abs(file["energy_label"]) > 20.0).all()  # references are hundreds of eV


def test_predict_stops_leaving_nothing(
    tmp_path: Path, members: tuple[MemberRef, ...], datasets: tuple[DatasetRef, ...]
) -> None:
    task = task_in(tmp_path)
    (tmp_path / STOP_FILE).touch()
    output = tmp_path / "out" / "m0"
    with pytest.raises(StopRequested):
        predict(PredictSpec("m0", members[0].checkpoint, datasets, str(output)), task)
    assert list(output.parent.iterdir()) == []


def test_an_unknown_branch_is_refused(members: tuple[MemberRef, ...], datasets: tuple[DatasetRef, ...]) -> None:
    columns = Dataset.open(Path(datasets[0].path)).columns(Split.TEST)
    with pytest.raises(DataError, match="no head for dataset 'other', only wet, metal"):
        predict_columns(load_model(Path(members[0].checkpoint)), columns, "other", 8)


# the ensemble


def test_structures_unlike_the_training_data_are_flagged_wherever_the_ensemble_is(
    result: CalibrateResult, datasets: tuple[DatasetRef, ...], tmp_path: Path
) -> None:
    folder = Path(result.output)
    found = result.datasets["wet"].domain
    assert found is not None
    assert 0.0 <= found.found < 0.2
    bundle = tmp_path / "model.gfm"
    export(folder, bundle)
    columns = Dataset.open(Path(datasets[0].path)).columns(Split.TEST)
    inside = Atoms(numbers=columns.numbers[: columns.offsets[1]], positions=columns.pos[: columns.offsets[1]])
    outside = inside.copy()
    outside.positions *= 0.6
    for path in (folder, bundle):
        near, far = Predictor(open_ensemble(path), "wet").predict([inside, outside])
        assert near["in_domain"]
        assert not far["in_domain"]
        assert far["distance"] == far["distances"].max() > 1.0
        plain = replace(open_ensemble(path), domains={})
        (without,) = Predictor(plain, "wet").predict([outside])
        assert "in_domain" not in without
        np.testing.assert_allclose(far["forces_interval"], far["distance"] * without["forces_interval"], rtol=1e-6)
    assert "In or out of domain" in (folder / MODEL_CARD_FILE).read_text()


def test_the_published_ensemble_is_complete(
    result: CalibrateResult, members: tuple[MemberRef, ...], datasets: tuple[DatasetRef, ...]
) -> None:
    folder = Path(result.output)
    assert read_manifest(folder).digest == result.digest
    for member in members:
        assert is_published(folder / "members" / member.name)
    evaluation = json.loads((folder / EVALUATION_FILE).read_text())
    assert set(evaluation["datasets"]) == set(result.datasets) == {"wet", "metal"}
    with np.load(folder / FIGURES_FILE) as arrays:
        for name, report in result.datasets.items():
            error = arrays[figure_key(name, "forces", "mean")] - arrays[figure_key(name, "forces", "label")]
            assert np.abs(error).mean() == pytest.approx(report.forces.mae)
            energy = arrays[figure_key(name, "energy", "label")]
            assert np.abs(energy).max() < 20.0  # less references
            curve = arrays[figure_key(name, "energy", "curve_calibrated")]
            assert curve[-1] == 1.0
            deviation = np.hypot(
                report.forces.scale * arrays[figure_key(name, "forces", "spread")], report.forces.floor
            )
            np.testing.assert_allclose(arrays[figure_key(name, "forces", "deviation")], deviation)
    calibration = load_ensemble(folder).calibration
    card = (folder / MODEL_CARD_FILE).read_text(encoding="utf-8")
    for name, report in result.datasets.items():
        shares = report.weights
        assert list(shares) == [m.name for m in members]
        assert sum(shares.values()) == pytest.approx(1.0, abs=1e-12)
        assert evaluation["datasets"][name]["weights"] == calibration.datasets[name].weights == shares
        assert (
            f"| {name} | {' | '.join(f'{w:.3f}' for w in shares.values())} | {report.effective_members:.2f} |" in card
        )
    for words in (
        "H O",
        "Cu Au",
        "SchNet",
        "PaiNN",
        "No long-range electrostatics",
        "Learns nothing",
        "seed",
    ):
        assert words in card
    assert f"{1e3 * result.datasets['metal'].forces.mae:.4g}" in card


def test_the_report_of_the_ensemble_makes_sense(result: CalibrateResult) -> None:
    for name, report in result.datasets.items():
        assert report.n_structures == SIZES[Split.TEST]
        assert report.energy.n == SIZES[Split.TEST]
        assert report.forces.mae < report.forces.null_mae, name
        assert report.forces.mae <= report.forces.rmse
        assert report.forces.nll_calibrated < report.forces.nll_raw
        assert abs(report.forces.coverage_calibrated - LEVEL) < 5 * report.forces.coverage_error
        assert report.forces.guaranteed


def test_fitting_again_gives_the_same_content_and_keeps_the_first(
    result: CalibrateResult, root: Path, datasets: tuple[DatasetRef, ...], members: tuple[MemberRef, ...]
) -> None:
    folder = root / "again"
    folder.mkdir()
    write_record(folder / "spec.json", CalibrateSpec(members, datasets, LEVEL, str(folder / "out"), seed=1))
    command = [sys.executable, "-m", "gfm_pipeline.apps.calibrate.fit", "spec.json"]
    subprocess.run(command, cwd=folder, check=True, timeout=120)
    assert read_record(CalibrateResult, folder / RESULT_FILE).digest == result.digest


def test_one_member_is_an_ensemble_with_a_floor(
    root: Path, datasets: tuple[DatasetRef, ...], members: tuple[MemberRef, ...]
) -> None:
    spec = CalibrateSpec(members[:1], datasets, LEVEL, str(root / "alone"), seed=1)
    found = calibrate(spec, task_in(root / "fit-alone"))
    assert all(r.forces.scale == 0.0 and r.forces.floor > 0.0 for r in found.datasets.values())
    assert all(r.weights == {"m0": 1.0} and r.effective_members == 1.0 for r in found.datasets.values())
    calculator = GFMCalculator.from_ensemble(root / "alone", "wet")
    atoms = molecule("H2O")
    atoms.calc = calculator
    atoms.get_potential_energy()
    assert calculator.results["energy_std"] == 0.0
    assert calculator.results["energy_interval"] > 0.0


@pytest.mark.parametrize(
    ("change", "message"),
    [({"level": 1.0}, "between 0 and 1"), ({"members": ()}, "different names")],
)
def test_impossible_requests_are_refused(
    change: dict[str, object],
    message: str,
    tmp_path: Path,
    datasets: tuple[DatasetRef, ...],
    members: tuple[MemberRef, ...],
) -> None:
    spec = CalibrateSpec(members, datasets, LEVEL, str(tmp_path / "out"), seed=1)
    with pytest.raises(DataError, match=message):
        calibrate(replace(spec, **change), task_in(tmp_path / "t"))  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_an_expected_error_of_the_program_has_its_exit_code(
    tmp_path: Path, datasets: tuple[DatasetRef, ...], members: tuple[MemberRef, ...]
) -> None:
    gone = replace(members[0], predictions=str(tmp_path / "nowhere"))
    write_record(tmp_path / "spec.json", CalibrateSpec((gone,), datasets, LEVEL, str(tmp_path / "out"), seed=1))
    command = [sys.executable, "-m", "gfm_pipeline.apps.calibrate.fit", "spec.json"]
    done = subprocess.run(command, cwd=tmp_path, check=False, timeout=120, capture_output=True)
    assert done.returncode == ExitCode.PERMANENT
    assert "is missing" in json.loads((tmp_path / ERROR_FILE).read_text())["message"]
    assert not (tmp_path / "out").exists()


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
            halfwidths.append(found["energy_interval"] / n / max(1.0, found["distance"]))  # what is beyond is wider
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


def test_the_newest_whole_ensemble_is_found(result: CalibrateResult, root: Path, tmp_path: Path) -> None:
    assert find_ensemble(root) == Path(result.output)
    assert find_ensemble(Path(result.output)) == Path(result.output)
    (tmp_path / "stages" / "calibrate-x" / "ensemble").mkdir(parents=True)
    with pytest.raises(IntegrityError, match="holds no calibrated ensemble"):
        find_ensemble(tmp_path)


def test_a_changed_file_is_refused(result: CalibrateResult, tmp_path: Path) -> None:
    copy = tmp_path / "ensemble"
    shutil.copytree(result.output, copy)
    assert len(load_ensemble(copy).members) == 2
    weights = copy / "members" / "m1" / "model.pt"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(bytes(data))
    with pytest.raises(IntegrityError, match=r"model\.pt was changed"):
        GFMCalculator.from_ensemble(copy, "wet")
