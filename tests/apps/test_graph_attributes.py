"""Graph attributes of a workflow: from files through datasets and training to the calculator."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from deploy_cases import ensemble_of
from ingest_cases import all_columns, run_all

from gfm_pipeline.api.training import train_model
from gfm_pipeline.apps.calculator import GFMCalculator
from gfm_pipeline.apps.calibrate.ensemble import Ensemble
from gfm_pipeline.apps.deploy import predict
from gfm_pipeline.apps.deploy.batches import info_of
from gfm_pipeline.apps.deploy.predictor import Predictor
from gfm_pipeline.apps.train.checkpoint import load_model
from gfm_pipeline.core.contracts.data import AssembleResult, SourceSettings
from gfm_pipeline.core.contracts.properties.attributes import Attribute
from gfm_pipeline.core.errors import ConfigError, DataError, ModelError

FIELD = Attribute("field", "V/Angstrom", "strength of the field", keys=("field_V_A", "efield"))
SOLVENT = Attribute("solvent", text="solvent", categories=("gas", "water", "2"))
ATTRIBUTES = (FIELD, SOLVENT)


def frames(n: int = 48) -> list[Atoms]:
    """Copper cells whose energy depends on a field, which every fourth lacks, and on a solvent."""
    found = []
    for k in range(n):
        atoms = bulk("Cu", cubic=True)
        atoms.rattle(0.08, seed=k)
        atoms.calc = EMT()
        field, solvent = float(k % 3), SOLVENT.categories[k % 2]
        energy = atoms.get_potential_energy() + 2.0 * field + (1.0 if solvent == "water" else 0.0)
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=atoms.get_forces())
        atoms.info |= {"run": f"run{k % 6}", "solvent": solvent} | ({"REF_efield": field} if k % 4 else {})
        found.append(atoms)
    return found


def source_of(folder: Path, structures: list[Atoms], **changes) -> SourceSettings:
    write(folder / "frames.extxyz", structures)
    source = SourceSettings("alloys", "ase", (str(folder / "frames.extxyz"),), group_key="run", attributes=ATTRIBUTES)
    return replace(source, **changes)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> AssembleResult:
    folder = tmp_path_factory.mktemp("dataset")
    return run_all(folder, source_of(folder, frames()))


@pytest.fixture(scope="module")
def ensemble(dataset: AssembleResult, tmp_path_factory: pytest.TempPathFactory) -> Ensemble:
    """A trained model as an ensemble."""
    output = tmp_path_factory.mktemp("trained") / "model"
    train_model(
        dataset.output,
        output,
        condition_on="field_and_solvent",
        graphs=1200,
        batch_size=4,
        hidden=8,
        layers=1,
        cutoff=3.5,
        ema_decay=0.9,
    )
    trained = load_model(output)
    (references,) = trained.card.references.values()
    found = ensemble_of(references, [trained.potential])
    member = replace(trained, potential=trained.potential.eval())  # torch's evaluation mode
    return replace(found, members=(member,))


def test_attributes_are_columns_of_the_dataset_and_missing_ones_are_not_numbers(dataset: AssembleResult) -> None:
    columns, structures = all_columns(dataset), frames()
    fields = [structures[k].info.get("REF_efield", np.nan) for k in columns.origin]
    np.testing.assert_array_equal(columns.graph_labels["field"], fields)
    solvents = [SOLVENT.categories.index(structures[k].info["solvent"]) for k in columns.origin]
    np.testing.assert_array_equal(columns.graph_labels["solvent"], solvents)
    facts = dataset.statistics
    assert facts.attributes == ATTRIBUTES
    assert sum(facts.targets["field"].known.values()) == 36
    report = (Path(dataset.output) / "ingest_report.md").read_text()
    assert "## Graph attributes" in report
    assert "| solvent | - |" in report
    assert "## Further targets" not in report


def test_a_source_states_the_value_of_records_that_have_none(tmp_path: Path) -> None:
    structures = frames(24)
    structures[1].info["solvent"] = "ethanol"
    source = source_of(tmp_path, structures, attribute_values={"field": -1.0}, label_units={"field": "V/nm"})
    result = run_all(tmp_path, source, max_quarantined=0.1)
    assert result.statistics.reasons == {"solvent is none of its categories": 1}
    columns = all_columns(result)
    expected = [structures[k].info.get("REF_efield", -10.0) / 10.0 for k in columns.origin]
    np.testing.assert_allclose(columns.graph_labels["field"], expected, rtol=1e-6)


def test_one_geometry_has_an_energy_for_each_value_in_the_calculator(ensemble: Ensemble) -> None:
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.05, seed=99)
    atoms.calc = GFMCalculator(ensemble)
    found = {}
    for field in (0.0, 2.0):
        for solvent in ("gas", "water"):
            atoms.info |= {"field_V_A": field, "solvent": solvent}  # ASE itself sees no change
            found[field, solvent] = atoms.get_potential_energy()
    assert found[2.0, "gas"] - found[0.0, "gas"] > 1.0  # 4 eV in the data
    assert found[0.0, "water"] - found[0.0, "gas"] > 0.2  # 1 eV in the data
    forces, step = atoms.get_forces(), 1e-4
    ends = []
    for sign in (1, -1):
        moved = atoms.copy()
        moved.positions[0, 0] += sign * step
        moved.calc = atoms.calc
        ends.append(moved.get_potential_energy())
    assert -(ends[0] - ends[1]) / (2 * step) == pytest.approx(forces[0, 0], abs=1e-5)
    atoms.info["field_V_A"] = 7
    with pytest.warns(UserWarning, match="structures of field 0 V/Angstrom to 2 V/Angstrom, and this one has 7"):
        atoms.get_potential_energy()


def test_predict_reads_the_attributes_of_files(
    ensemble: Ensemble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predict, "open_ensemble", lambda _: ensemble)
    structures = [bulk("Cu", cubic=True) for _ in range(5)]
    stated = [{"efield": 0.0}, {"field_V_A": 2.0}, {"efield": 2.0, "solvent": "water"}, {}, {"solvent": "wine"}]
    for atoms, values in zip(structures, stated, strict=True):
        atoms.info |= {"solvent": "gas", **values}
    write(tmp_path / "in.extxyz", structures)
    source = SourceSettings("in", "ase", (str(tmp_path / "in.extxyz"),))
    spec = predict.PredictFilesSpec(model="", source=source, output=str(tmp_path / "out.extxyz"), dtype="float64")
    facts = predict.predict_files(spec)
    assert (facts.structures, facts.n_refused) == (4, 1)
    assert "solvent is none of its categories" in facts.refused[0]
    found = read(tmp_path / "out.extxyz", ":")
    expected = [one["energy"] for one in Predictor(ensemble).predict(structures[:4])]
    np.testing.assert_allclose([atoms.get_potential_energy() for atoms in found], expected, rtol=1e-6)
    assert len(set(np.round(expected, 3))) == 4
    assert found[2].info["field_V_A"] == 2.0


def test_a_value_that_is_not_said_is_unknown_or_assumed_or_asked_for(ensemble: Ensemble) -> None:
    silent, said = bulk("Cu", cubic=True), bulk("Cu", cubic=True)
    silent.info["solvent"] = "gas"
    said.info |= {"solvent": "gas", "efield": 0.0}
    unknown, known = Predictor(ensemble).predict([silent, said])
    assert unknown["warnings"] == known["warnings"] == ()
    assert abs(unknown["energy"] - known["energy"]) > 1e-3  # the data have structures of unknown field
    del silent.info["solvent"]
    assert "gas was assumed. Set atoms.info['solvent']" in Predictor(ensemble).predict([silent])[0]["warnings"][0]
    (member,) = ensemble.members
    ranges = {"alloys": {"field": (1.0, 2.0), "solvent": (0.0, 1.0)}}
    card = replace(member.card, unstated={"alloys": ()}, attributes=ranges)
    strict = Predictor(replace(ensemble, members=(replace(member, card=card),)))
    with pytest.raises(ModelError, match="told of the field of structures, and this one does not say it") as caught:
        strict.predict([silent])
    assert "atoms.info['field_V_A']; the dataset alloys has 1 V/Angstrom to 2" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [("efield", "strong", "'strong', which is not a number"), ("solvent", "wine", "'wine', which is none of its")],
)
def test_a_value_that_an_attribute_cannot_have_is_refused(ensemble: Ensemble, key, value, words) -> None:
    atoms = bulk("Cu", cubic=True)
    atoms.info[key] = value
    with pytest.raises(ModelError, match=f"atoms.info\\['{key}'\\] is {words}"):
        Predictor(ensemble).predict([atoms])
    with pytest.raises(ModelError, match=words):  # of LAMMPS and torch-sim
        info_of({FIELD.name if key in FIELD.keys else key: value}, ATTRIBUTES)
    with pytest.raises(ModelError, match="no attribute 'feld'") as caught:
        info_of({"feld": 1.0}, ATTRIBUTES)
    assert caught.value.hint == "Did you mean field?"
    assert info_of({"field": 1.0}, ATTRIBUTES) == {"field_V_A": 1.0}


def test_models_that_cannot_be_conditioned_so_are_refused_before_they_train(
    dataset: AssembleResult, tmp_path: Path
) -> None:
    settings = {"graphs": 8, "hidden": 4, "layers": 1, "cutoff": 3.5}
    with pytest.raises(ConfigError, match="condition_on names 'feld', which is no attribute here") as caught:
        train_model(dataset.output, tmp_path / "a", condition_on="feld", **settings)
    assert "Did you mean field?" in str(caught.value.hint)
    with pytest.raises(DataError, match="told of the charge of structures, and no structure of its datasets states"):
        train_model(dataset.output, tmp_path / "b", condition_on="charge", **settings)
    with pytest.warns(UserWarning, match="mixes structures of field 0 to 2, and the model is not told of it"):
        train_model(dataset.output, tmp_path / "c", condition_on="solvent", **settings)
