"""From checkpoints to the deployable ensemble and its ASE calculator, on labels of ASE's EMT."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ensemble_cases import LEVEL, SIZES, task_in

from gfm_pipeline.apps.calculator import GFMCalculator
from gfm_pipeline.apps.calibrate.ensemble import load_ensemble
from gfm_pipeline.apps.calibrate.fit import calibrate
from gfm_pipeline.apps.calibrate.predict import predict, predict_columns
from gfm_pipeline.apps.dataset import Dataset
from gfm_pipeline.apps.deploy.bundle import export, open_ensemble
from gfm_pipeline.apps.deploy.predictor import Predictor
from gfm_pipeline.apps.runtime.program import StopRequested
from gfm_pipeline.apps.train.checkpoint import load_model
from gfm_pipeline.core.contracts.accuracy.split_errors import SPLIT_ERRORS_FILE, EnsembleErrors
from gfm_pipeline.core.contracts.data import Split
from gfm_pipeline.core.contracts.evaluation import (
    EVALUATION_FILE,
    FIGURES_FILE,
    MODEL_CARD_FILE,
    CalibrateResult,
    CalibrateSpec,
    MemberRef,
    PredictSpec,
    figure_key,
)
from gfm_pipeline.core.contracts.policies import PolicyChoice
from gfm_pipeline.core.contracts.task import ERROR_FILE, RESULT_FILE, STOP_FILE, ExitCode
from gfm_pipeline.core.contracts.training import DatasetRef
from gfm_pipeline.core.ensemble_files import find_ensemble
from gfm_pipeline.core.errors import DataError, IntegrityError
from gfm_pipeline.core.publish import is_published, read_manifest, write_record
from gfm_pipeline.core.records import read_record

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
        assert far["distance"] >= far["distances"].max() > 1.0
        plain = replace(open_ensemble(path), domains={})
        (without,) = Predictor(plain, "wet").predict([outside])
        assert "in_domain" not in without
        beyond = far["distances"] > 1.0  # those atoms have wider intervals, in proportion at least
        least = far["distances"][:, None] * without["forces_interval"]
        assert (far["forces_interval"][beyond] >= 0.999 * least[beyond]).all()
        assert far["energy_interval"] >= 0.999 * far["distance"] * without["energy_interval"]
    assert "In or out of domain" in (folder / MODEL_CARD_FILE).read_text()


def test_one_member_has_the_rigidity_of_its_last_layer(
    members: tuple[MemberRef, ...], datasets: tuple[DatasetRef, ...], tmp_path: Path
) -> None:
    spec = CalibrateSpec(members[:1], datasets, LEVEL, str(tmp_path / "ensemble"), 0, PolicyChoice("llpr", {}))
    report = calibrate(spec, task_in(tmp_path / "task")).datasets["wet"]
    assert report.energy.scale > 0.0
    assert report.forces.scale == 0.0
    assert report.energy.coverage_calibrated == pytest.approx(LEVEL, abs=0.25)
    # The same from the file of predictions, from a folder, and from an exported file.
    export(tmp_path / "ensemble", tmp_path / "model.gfm")
    columns = Dataset.open(Path(datasets[0].path)).columns(Split.TEST)
    with np.load(Path(members[0].predictions) / "wet-testset.npz") as file:
        rigid = file["rigidity"]
    assert rigid.std() > 0.0
    for path in (tmp_path / "ensemble", tmp_path / "model.gfm"):
        predictor = Predictor(open_ensemble(path), "wet")
        for g in range(3):
            rows = slice(columns.offsets[g], columns.offsets[g + 1])
            (found,) = predictor.predict([Atoms(columns.numbers[rows], columns.pos[rows])])
            assert found["energy_std"] == pytest.approx((rows.stop - rows.start) * rigid[g], rel=1e-3)
            assert found["energy_interval"] > 0.0
            assert not found["forces_std"].any()
            assert (found["forces_interval"] > 0.0).all()


def test_coverage_is_reported_by_element_and_uncertainty_is_scored(result: CalibrateResult) -> None:
    forces = result.datasets["wet"].forces
    elements = [group for group in forces.groups if group.by == "element"]
    assert {group.group for group in elements} == {"H", "O"}
    assert sum(group.n for group in elements) == forces.n
    average = sum(group.n * group.coverage for group in elements) / forces.n
    assert average == pytest.approx(forces.coverage_calibrated)
    assert all(0.0 < group.error < 0.5 for group in elements)
    assert forces.sharpness is not None
    assert forces.sharpness > 0.0
    assert forces.auroc_worst is not None
    assert 0.0 <= forces.auroc_worst <= 1.0
    assert forces.ause is not None
    assert math.isfinite(forces.ause)


def test_errors_of_groups_are_those_of_their_structures(
    result: CalibrateResult, datasets: tuple[DatasetRef, ...]
) -> None:
    folder = Path(result.output)
    ensemble = load_ensemble(folder)
    errors = read_record(EnsembleErrors, folder / SPLIT_ERRORS_FILE).datasets
    for ref in datasets:
        report = result.datasets[ref.name]
        rows = {(row.target, row.by, row.group): row for row in errors[ref.name].groups}
        for target, part in (("energy", report.energy), ("forces", report.forces)):
            whole = rows[target, "all", "all"]
            assert (whole.mae, whole.rmse, whole.n) == (part.mae, part.rmse, part.n)
            assert (whole.coverage, whole.coverage_error) == (part.coverage_calibrated, part.coverage_error)
        columns = Dataset.open(Path(ref.path)).columns(Split.TEST)
        shares = ensemble.weights(ref.name)
        values = [predict_columns(member, columns, ref.name, 16) for member in ensemble.members]
        force, energy = (sum(s * v[t] for s, v in zip(shares, values, strict=True)) for t in ("forces", "energy"))
        off = np.abs(force - columns.forces)
        of_energy = np.abs(energy - columns.energy) / columns.natoms
        for symbol, number in {"wet": {"H": 1, "O": 8}, "metal": {"Cu": 29, "Au": 79}}[ref.name].items():
            of_atoms = columns.numbers == number
            assert rows["forces", "element", symbol].mae == pytest.approx(off[of_atoms].mean(), rel=1e-3)
            with_it = np.array([of_atoms[a:b].any() for a, b in pairwise(columns.offsets)])
            if 0 < with_it.sum() < len(columns):
                row = rows["energy", "element", symbol]
                assert row.structures == with_it.sum()
                assert row.mae == pytest.approx(of_energy[with_it].mean(), rel=1e-3)
            else:
                assert ("energy", "element", symbol) not in rows  # as all structures
        in_domain = errors[ref.name].domain[0]
        assert in_domain.outside / in_domain.structures == pytest.approx(report.domain.found)
        assert errors[ref.name].left_out == {"group": 4}  # of 24 groups of two, 20 have a row
        worst = [one for one in errors[ref.name].worst if one.target == "forces"]
        largest = np.sort([off[a:b].max() for a, b in pairwise(columns.offsets)])[::-1]
        assert [one.error for one in worst] == pytest.approx(largest[:4], rel=1e-3)
        atoms = slice(*columns.offsets[(first := int(worst[0].origin.split()[1])) : first + 2])
        np.testing.assert_allclose(worst[0].positions, columns.pos[atoms], atol=1e-3)
        assert np.argmax(off[atoms].max(1)) == worst[0].atom


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
            spread, deviation = (arrays[figure_key(name, "forces", key)] for key in ("spread", "deviation"))
            assert (deviation >= (1.0 - 1e-9) * report.forces.scale * spread).all()
            assert np.median(deviation) == pytest.approx(report.forces.interval_halfwidth / 2, rel=0.7)
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
        assert report.forces.excess_error is not None
        assert 0 < report.forces.excess_error < report.forces.mae


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


def test_predictions_of_earlier_versions_give_the_calibration_that_they_gave(
    result: CalibrateResult, members: tuple[MemberRef, ...], datasets: tuple[DatasetRef, ...], tmp_path: Path
) -> None:
    older = []
    for member in members:  # without the sample of the training split
        folder = tmp_path / member.name
        shutil.copytree(member.predictions, folder, ignore=shutil.ignore_patterns("*-trainset.npz"))
        older.append(replace(member, predictions=str(folder)))
    spec = CalibrateSpec(tuple(older), datasets, LEVEL, str(tmp_path / "ensemble"), seed=1)
    calibrate(spec, task_in(tmp_path / "fit"))
    old, new = (load_ensemble(Path(path)).calibration.datasets["wet"] for path in (spec.output, result.output))
    assert old.domain is not None
    assert new.domain is not None
    assert (old.domain.left_out, new.domain.left_out) == (0, 96)
    assert old.domain.n == new.domain.n - 96 == 48
    assert new.domain.threshold >= old.domain.threshold
    with np.load(Path(members[0].predictions) / "wet-trainset.npz") as file:
        assert np.isfinite(file["forces"]).all()
        assert len(file["energy"]) == 96
