"""Finished ensembles in use: one file of a model, and predictions of the structures of files."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import PropertyNotImplementedError
from ase.db import connect
from ase.filters import FrechetCellFilter
from ase.io import read, write
from ase.optimize import BFGS
from deploy_cases import emt_crystals

from gfm_pipeline.apps.calculator import GFMCalculator
from gfm_pipeline.apps.deploy.bundle import export, load_bundle, open_ensemble
from gfm_pipeline.apps.deploy.predict import predict_files
from gfm_pipeline.apps.deploy.predictor import Predictor
from gfm_pipeline.core.contracts.data import SourceSettings
from gfm_pipeline.core.contracts.deploy import PredictFilesSpec
from gfm_pipeline.core.errors import ConfigError, DataError, IntegrityError, ModelError

CAMPAIGN = Path(__file__).parents[1] / "reliability" / "fixtures" / "campaign-v1" / "campaign"
BUNDLE = Path(__file__).parent / "fixtures" / "bundle-v1.gfm"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("model") / "model.gfm"
    export(CAMPAIGN, output)
    return output


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "some.extxyz"
    write(path, emt_crystals())
    return path


def spec(model: Path, *files: Path, **settings: Any) -> PredictFilesSpec:
    source = SourceSettings("files", "ase", tuple(map(str, files)), group_key="config_type")
    return PredictFilesSpec(str(model), source, **settings)


# one file of a model


def test_a_bundle_predicts_as_its_campaign_does_and_needs_it_no_more(model: Path, tmp_path: Path) -> None:
    alone = tmp_path / "elsewhere.gfm"
    shutil.copyfile(model, alone)
    (here,), (there,) = (GFMCalculator(path).predict([bulk("Cu", cubic=True)]) for path in (CAMPAIGN, alone))
    assert here.keys() == there.keys()
    for name, value in here.items():
        np.testing.assert_array_equal(value, there[name], err_msg=name)


def test_equal_ensembles_give_equal_files_and_nothing_in_one_is_a_pickle(model: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.gfm"
    assert export(CAMPAIGN, again).digest == export(CAMPAIGN, tmp_path / "third.gfm").digest
    assert again.read_bytes() == model.read_bytes()
    with zipfile.ZipFile(model) as archive:
        suffixes = {Path(name).suffix for name in archive.namelist()}
        index = json.loads(archive.read("bundle.json"))
    assert suffixes == {".json", ".md", ".safetensors"}
    assert index["versions"].keys() >= {"gfm-pipeline", "torch"}


def test_bundles_of_the_first_version_open(model: Path) -> None:
    (old,), (new,) = (Predictor(load_bundle(path)).predict([bulk("Au")]) for path in (BUNDLE, model))
    assert old["energy"] == pytest.approx(new["energy"], abs=1e-6)
    # Intervals of ensembles that earlier versions calibrated are as they were.
    (c,) = [d.forces for d in load_bundle(BUNDLE).calibration.datasets.values()]
    expected = c.quantile * np.hypot(c.scale * old["forces_std"], c.floor) * max(1.0, old.get("distance", 1.0))
    np.testing.assert_allclose(old["forces_interval"], expected, rtol=1e-12)


def rewritten(model: Path, to: Path, change: dict[str, bytes | None]) -> Path:
    with zipfile.ZipFile(model) as source, zipfile.ZipFile(to, "w") as target:
        names = [*source.namelist(), *(name for name in change if name not in source.namelist())]
        for name in names:
            content = change.get(name, source.read(name) if name in source.namelist() else b"")
            if content is not None:
                target.writestr(name, content)
    return to


def index_of(model: Path, **values: Any) -> bytes:
    with zipfile.ZipFile(model) as archive:
        return json.dumps({**json.loads(archive.read("bundle.json")), **values}).encode()


@pytest.mark.parametrize("keep", [0, 30, 5000, -1])
def test_a_file_that_is_cut_is_refused(model: Path, tmp_path: Path, keep: int) -> None:
    cut = tmp_path / "cut.gfm"
    cut.write_bytes(model.read_bytes()[:keep])
    with pytest.raises(IntegrityError, match=r"cut\.gfm is damaged or not an exported model"):
        load_bundle(cut)


def test_a_file_that_was_edited_is_refused(model: Path, tmp_path: Path) -> None:
    weights = "members/m00/weights.safetensors"
    changes: list[tuple[dict[str, bytes | None], str]] = [
        ({weights: b"other"}, "m00/weights.safetensors has another SHA-256"),
        ({weights: None}, "m00/weights.safetensors is not as its index says"),
        ({"evil.pkl": b"x"}, "evil.pkl is not as its index says"),
        ({"bundle.json": index_of(model, schema_version=99)}, "written by a newer version"),
        ({"bundle.json": index_of(model, format="other")}, "not an exported model of gfm-pipeline"),
        ({"bundle.json": index_of(model, digest="0")}, "its digest is not that of its entries"),
        ({"bundle.json": None}, "has no bundle.json"),
    ]
    for number, (change, reason) in enumerate(changes):
        with pytest.raises(IntegrityError, match=reason):
            load_bundle(rewritten(model, tmp_path / f"{number}.gfm", change))


def test_an_export_never_writes_over_a_file_unasked(model: Path, tmp_path: Path) -> None:
    taken = tmp_path / "mine.gfm"
    taken.write_text("precious")
    with pytest.raises(ConfigError, match="exists"):
        export(CAMPAIGN, taken)
    assert taken.read_text() == "precious"
    export(CAMPAIGN, taken, overwrite=True)
    assert taken.read_bytes() == model.read_bytes()
    with pytest.raises(ConfigError, match=r"does not end in \.gfm"):
        export(CAMPAIGN, tmp_path / "model.zip")
    with pytest.raises(IntegrityError, match="does not exist"):
        open_ensemble(tmp_path / "nothing.gfm")


# predictions


def test_structures_together_have_the_results_of_each_alone(model: Path) -> None:
    predictor = Predictor(load_bundle(model))
    frames = [*emt_crystals(5), Atoms("Cu2", [[0, 0, 0], [0, 0, 2.2]])]
    for result, atoms in zip(predictor.predict(frames), frames, strict=True):
        (alone,) = predictor.predict([atoms])
        for name in predictor.levels:
            np.testing.assert_allclose(result[name], alone[name], atol=1e-9, err_msg=name)
    assert predictor.predict([]) == []


@pytest.mark.parametrize(
    ("atoms", "reason"),
    [
        (Atoms(), "no atoms"),
        (Atoms("CuHe", [[0, 0, 0], [0, 0, 2]]), "holds no He"),
        (Atoms("Cu2", [[0, 0, 0], [0, np.nan, 2]]), "position of atom 1 is not finite"),
        (Atoms("Cu2", [[0, 0, 0], [0, 0, 0]]), "Atoms 0 and 1 are at one place"),
        (Atoms("Cu", cell=np.diag([3.0, np.inf, 3.0]), pbc=True), "cell is not finite"),
        (Atoms("Cu", cell=np.zeros((3, 3)), pbc=True), "volume"),
    ],
)
def test_what_has_no_answer_is_refused_by_name(model: Path, atoms: Atoms, reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        Predictor(load_bundle(model)).predict([bulk("Cu"), atoms])


@pytest.mark.parametrize("device", ["xpu:7", "meta", "abacus"])
def test_a_device_that_is_not_there_is_refused(model: Path, device: str) -> None:
    with pytest.raises(ModelError, match=f"'{device}' is not there"):
        Predictor(load_bundle(model), device=device)


def test_predictions_reach_every_format_whole(model: Path, labelled: Path, tmp_path: Path) -> None:
    frames = emt_crystals()
    expected = Predictor(load_bundle(model), dtype="float32").predict(frames)
    for suffix in (".extxyz", ".db", ".csv", ".h5"):
        output = tmp_path / f"predicted{suffix}"
        facts = predict_files(spec(model, labelled, output=str(output), batch_atoms=7))
        assert (facts.structures, facts.n_refused, facts.targets) == (9, 0, ("energy", "forces"))
        assert [p.name for p in tmp_path.glob(".*")] == []
    found = read(tmp_path / "predicted.extxyz", ":")
    for atoms, result in zip(found, expected, strict=True):
        assert atoms.get_potential_energy() == pytest.approx(result["energy"], abs=1e-5)
        assert atoms.info["energy_interval"] == pytest.approx(result["energy_interval"], rel=1e-4)
        np.testing.assert_allclose(atoms.get_forces(), result["forces"], atol=1e-4)
        np.testing.assert_allclose(atoms.arrays["forces_interval"], result["forces_interval"], rtol=1e-3)
    row = connect(tmp_path / "predicted.db").get(id=4)
    assert row.energy == pytest.approx(expected[3]["energy"], abs=1e-5)
    np.testing.assert_allclose(row.data["forces_std"], expected[3]["forces_std"], atol=1e-5)
    table = pd.read_csv(tmp_path / "predicted.csv")
    np.testing.assert_allclose(table["energy_std"], [r["energy_std"] for r in expected], atol=1e-5)
    with h5py.File(tmp_path / "predicted.h5") as store:
        assert store["natoms"][:].tolist() == [len(a) for a in frames]
        np.testing.assert_allclose(store["forces"][:], np.concatenate([r["forces"] for r in expected]), atol=1e-4)


def test_bad_structures_are_named_and_the_others_predicted(model: Path, tmp_path: Path) -> None:
    path, output = tmp_path / "mixed.extxyz", tmp_path / "out.extxyz"
    twice = bulk("Cu", cubic=True)
    twice.positions[1] = twice.positions[0]
    write(path, [bulk("Cu"), bulk("Fe"), twice, bulk("Au")])
    with path.open("a") as stream:
        stream.write("2\nProperties=species:S:1:pos:R:3\nCu 0 0 0\nCu 0 zero 0\n")
    facts = predict_files(spec(model, path, output=str(output)))
    assert facts.structures == len(read(output, ":")) == 2
    assert facts.n_refused == 3
    for reason, sentence in zip(("holds no Fe", "at one place", "zero"), sorted(facts.refused), strict=True):
        assert reason in sentence
        assert sentence.startswith(f"{path}, record ")


def test_errors_are_those_of_the_predictions(model: Path, labelled: Path) -> None:
    frames = emt_crystals()
    results = Predictor(load_bundle(model), dtype="float32").predict(frames)
    facts = predict_files(spec(model, labelled, evaluate=True, by_group=True))
    error = np.array([(r["energy"] - a.get_potential_energy()) / len(a) for r, a in zip(results, frames, strict=True)])
    rows = {(row.target, row.by, row.group): row for row in facts.errors}
    assert rows["energy", "all", "all"].mae == pytest.approx(np.abs(error).mean(), rel=1e-4)
    assert rows["energy", "group", "kind1"].rmse == pytest.approx(np.sqrt(np.mean(error[1::2] ** 2)), rel=1e-4)
    force = np.concatenate([np.ravel(r["forces"] - a.get_forces()) for r, a in zip(results, frames, strict=True)])
    assert rows["forces", "all", "all"].mae == pytest.approx(np.abs(force).mean(), rel=1e-4)
    per_element = [row.entries for key, row in rows.items() if key[:2] == ("forces", "element")]
    assert sum(per_element) == force.size
    inside = [
        np.abs(r["forces"] - a.get_forces()) <= r["forces_interval"] for r, a in zip(results, frames, strict=True)
    ]
    counts, covered = (np.array(of, dtype=float) for of in ([x.size for x in inside], [x.sum() for x in inside]))
    share = covered.sum() / counts.sum()
    assert rows["forces", "all", "all"].coverage == pytest.approx(share, abs=2 / force.size)
    robust = np.sqrt(len(frames) / (len(frames) - 1) * np.sum((covered - share * counts) ** 2)) / counts.sum()
    assert rows["forces", "all", "all"].coverage_error == pytest.approx(max(robust, 1 / (len(frames) + 2)), abs=0.02)
    worst = [w for w in facts.worst if w.target == "energy"]
    assert worst[0].record == int(np.abs(error).argmax())
    assert worst[0].error == pytest.approx(np.abs(error).max(), rel=1e-4)


def test_files_without_labels_or_structures_are_refused(model: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare.extxyz"
    write(bare, [bulk("Cu"), bulk("Au")])
    with pytest.raises(DataError, match=r"No structure has a label.*bare\.extxyz, 2 records\)"):
        predict_files(spec(model, bare, evaluate=True))
    write(bare, [bulk("Fe")])
    with pytest.raises(DataError, match=r"None of the structures can be predicted\. .*record 0: .*holds no Fe"):
        predict_files(spec(model, bare, output=str(tmp_path / "o.csv")))
    assert not (tmp_path / "o.csv").exists()
    with pytest.raises(DataError, match="does not exist"):
        predict_files(spec(model, tmp_path / "none.xyz"))
    with pytest.raises(ConfigError, match=r"cannot be written as out\.pdf"):
        predict_files(spec(model, bare, output=str(tmp_path / "out.pdf")))


def test_cells_relax_by_the_stress_which_is_the_slope_of_the_energy(model: Path) -> None:
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.05, seed=1)
    atoms.calc = GFMCalculator(model)
    stress = atoms.get_stress(voigt=False)
    step = 1e-4
    for i, j in ((0, 0), (1, 2)):
        energies = []
        for sign in (1, -1):
            strain = np.eye(3)
            strain[i, j] += sign * step / 2
            strain[j, i] += sign * step / 2
            moved = atoms.copy()
            moved.set_cell(atoms.cell.array @ strain, scale_atoms=True)
            moved.calc = atoms.calc
            energies.append(moved.get_potential_energy())
        slope = (energies[0] - energies[1]) / (2 * step) / atoms.get_volume()
        assert stress[i, j] == pytest.approx(slope, abs=1e-6)
    before = np.abs(stress).max()
    BFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=0.005, steps=40)
    assert np.abs(atoms.get_stress()).max() < before
    assert "stress" not in GFMCalculator(model).predict([bulk("Cu")])[0]
    alone = Atoms("Cu2", [[0, 0, 0], [0, 0, 2.3]], calculator=GFMCalculator(model))
    with pytest.raises(PropertyNotImplementedError):
        alone.get_stress()
