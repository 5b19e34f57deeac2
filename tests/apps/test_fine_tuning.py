"""The start of a fine-tuning: what an earlier model knew stays, and new data move only what they determine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import training_cases
from deploy_cases import ensemble_of, random_potential
from training_cases import REFERENCE, morse_columns, publish_dataset, run, small_spec

from gfm_pipeline.apps.dataset import Columns, Dataset, GraphTable, collate
from gfm_pipeline.apps.deploy.bundle import member_entries, write_entries
from gfm_pipeline.apps.train.checkpoint import Checkpoint, TrainedModel, load
from gfm_pipeline.apps.train.setup import from_earlier
from gfm_pipeline.core.contracts.evaluation import CALIBRATION_FILE
from gfm_pipeline.core.contracts.optimisation.fine_tuning import WeightsOrigin
from gfm_pipeline.core.contracts.optimisation.settings import OptimiserSettings
from gfm_pipeline.core.contracts.training import DatasetRef, ModelSettings, TrainSpec, flat_settings, settings_of
from gfm_pipeline.core.ensemble_files import ensemble_digest
from gfm_pipeline.core.errors import DataError, IntegrityError
from gfm_pipeline.core.records import to_plain
from gfm_pipeline.models import Potential

MODEL = ModelSettings("SchNet", hidden=8, layers=2, cutoff=3.0, n_radial=6)
EARLIER = {"a": {"H": -1.0, "O": -2.0}, "b": dict(REFERENCE)}
SHIFT = {"H": 0.25, "O": -0.5}  # of branch b, beside its references
OTHER_THEORY = {"H": 17.5, "O": -1234.25}  # eV per atom between two levels of theory
SYMBOLS = {1: "H", 8: "O"}


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainedModel]:
    """Return an exported model with the branches a and b, and the model itself."""
    potential = random_potential(1, **{k: v for k, v in vars(MODEL).items() if k != "options"}, n_datasets=2).float()
    (target,) = potential.shifted
    potential.shift(target).values[1, [0, 7]] = torch.tensor([SHIFT["H"], SHIFT["O"]])
    found = ensemble_of(EARLIER["b"], [potential])
    card = replace(found.members[0].card, datasets=("a", "b"), references=EARLIER, model=MODEL)
    member = TrainedModel(potential.eval(), card)  # torch's evaluation mode
    entries = member_entries(replace(found, members=(member,)))
    (of_dataset,) = found.calibration.datasets.values()
    calibration = replace(found.calibration, datasets=dict.fromkeys(EARLIER, of_dataset))
    entries[CALIBRATION_FILE] = json.dumps(to_plain(calibration)).encode()
    path = tmp_path_factory.mktemp("earlier") / "model.gfm"
    write_entries(path, entries, found.digest)
    return path, member


def predicted(
    model: Potential, columns: Columns, branch: int, references: Mapping[str, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Return total energies (eV) and forces of a branch."""
    table = GraphTable.build(columns, MODEL.cutoff, branch, {"energy": dict.fromkeys(references, 0.0)})
    found = model(collate([table], np.zeros(len(columns), dtype=int), np.arange(len(columns))))
    of_atoms = np.array([references[SYMBOLS[z]] for z in columns.numbers])
    return found.energy.double().numpy() + np.add.reduceat(of_atoms, columns.offsets[:-1]), found.forces.numpy()


def dataset_of(
    monkeypatch, folder: Path, name: str, member: TrainedModel, offset: Mapping[str, float], *, water: bool = False
) -> DatasetRef:
    """Publish structures with the labels of branch b, plus ``offset`` (eV) for each atom of an element."""
    references = {symbol: value + offset[symbol] for symbol, value in EARLIER["b"].items()}

    def made(seed: int, n: int, _: float) -> Columns:
        columns = morse_columns(seed, 3 * n, 1.0)
        if water:
            of_structure = np.split(columns.numbers, columns.offsets[1:-1])
            columns = columns.take(np.array([k for k, z in enumerate(of_structure) if sorted(z) == [1, 1, 8]]))
        columns = columns.take(np.arange(min(n, len(columns))))
        energy, forces = predicted(member.potential, columns, 1, references)
        return replace(columns, graph_labels={"energy": energy}, atom_labels={"forces": forces.astype(np.float32)})

    monkeypatch.setattr(training_cases, "morse_columns", made)
    size = (20, 6, 6) if water else (96, 24, 24)
    return publish_dataset(folder, name, seed=5, stiffness=1.0, n=size)


def started(path: Path, spec: TrainSpec, branches: dict[str, str]) -> tuple[Checkpoint, Potential]:
    """Return the start of a fine-tuning, and its model."""
    found = from_earlier(spec, WeightsOrigin(str(path), ensemble_digest(path), "m00", branches))
    model = Potential(found.card.spec)
    model.load_state_dict(found.tensors.weights)
    return found, model.eval()  # torch's evaluation mode


def test_data_of_another_level_of_theory_move_the_references_alone(monkeypatch, tmp_path, earlier) -> None:
    """Branches go to the datasets that ask for them, in the order of these."""
    path, member = earlier
    new = dataset_of(monkeypatch, tmp_path, "new", member, OTHER_THEORY)
    same = dataset_of(monkeypatch, tmp_path, "same", member, dict.fromkeys(OTHER_THEORY, 0.0))
    spec = replace(small_spec((new, same), tmp_path / "out"), model=MODEL)
    found, model = started(path, spec, {"new": "b", "same": "a"})
    for symbol, offset in OTHER_THEORY.items():
        expected = EARLIER["b"][symbol] + SHIFT[symbol] + offset
        assert found.card.references["new"][symbol] == pytest.approx(expected, abs=1e-3)
    test = morse_columns(77, 10, 1.0)
    references = {symbol: value + OTHER_THEORY[symbol] for symbol, value in EARLIER["b"].items()}
    energy, forces = predicted(model, test, 0, found.card.references["new"])
    of_earlier = predicted(member.potential, test, 1, references)
    assert np.abs(energy - of_earlier[0]).max() < 0.01
    assert np.allclose(forces, of_earlier[1], atol=1e-5)
    assert np.allclose(
        predicted(model, test, 1, EARLIER["a"])[1], predicted(member.potential, test, 0, EARLIER["a"])[1], atol=1e-5
    )
    assert found.card.origin is not None
    assert found.card.origin.ensemble == "model.gfm"


def test_what_new_data_leave_open_stays_as_it_was(monkeypatch, tmp_path, earlier) -> None:
    """Water alone does not tell H from O: energies of other molecules are those of the earlier model."""
    path, member = earlier
    water = dataset_of(monkeypatch, tmp_path, "water", member, dict.fromkeys(SHIFT, 0.0), water=True)
    found, model = started(path, replace(small_spec((water,), tmp_path / "out"), model=MODEL), {"water": "b"})
    test = morse_columns(78, 10, 1.0)
    energy, _ = predicted(model, test, 0, found.card.references["water"])
    assert np.abs(energy - predicted(member.potential, test, 1, EARLIER["b"])[0]).max() < 0.01


def test_a_training_starts_from_the_weights_and_goes_on_from_its_checkpoint(monkeypatch, tmp_path, earlier) -> None:
    path, member = earlier
    new = dataset_of(monkeypatch, tmp_path, "new", member, OTHER_THEORY)
    origin = WeightsOrigin(str(path), ensemble_digest(path), "m00", {"new": "b"})
    slow = OptimiserSettings(learning_rate=1e-6, batch_size=8, warmup=1)
    spec = replace(small_spec((new,), tmp_path / "out"), model=MODEL, optimiser=slow, origin=origin, budget_graphs=32)
    fresh = run(replace(spec, origin=None, output=str(tmp_path / "fresh")), tmp_path / "1")
    tuned = run(spec, tmp_path / "2")
    assert tuned.objective < 0.05 * fresh.objective
    card = load(tmp_path / "out").card
    assert card.origin == replace(origin, ensemble="model.gfm")
    assert card.graphs == 32
    further = replace(spec, checkpoint=spec.output, origin=None, output=str(tmp_path / "more"), budget_graphs=64)
    assert run(further, tmp_path / "3").graphs == 64


def test_what_does_not_fit_is_refused_in_a_sentence(monkeypatch, tmp_path, earlier) -> None:
    path, member = earlier
    new = dataset_of(monkeypatch, tmp_path, "new", member, OTHER_THEORY)
    spec = replace(small_spec((new,), tmp_path / "out"), model=MODEL)
    origin = WeightsOrigin(str(path), ensemble_digest(path), "m00", {"new": "b"})
    with pytest.raises(IntegrityError, match="was changed since the campaign read it"):
        from_earlier(spec, replace(origin, digest="0" * 64))
    with pytest.raises(IntegrityError, match="has no member m07"):
        from_earlier(spec, replace(origin, member="m07"))
    opened = Dataset.open
    facts = replace(opened(tmp_path / "new").statistics, elements=("Au", "H", "O"))
    monkeypatch.setattr(Dataset, "open", lambda folder: replace(opened(folder), statistics=facts))
    with pytest.raises(DataError, match=r"Dataset new has Au, which the earlier ensemble model.gfm does not know"):
        from_earlier(spec, origin)


def test_settings_of_a_candidate_are_those_of_a_model_and_back() -> None:
    optimiser = OptimiserSettings(losses={"forces": "huber"}, weights={"forces.a": 0.5}, learning_rate=0.002)
    model = replace(MODEL, options={"channels": 4})
    flat = flat_settings(model, optimiser)
    assert flat["options.channels"] == 4
    assert flat["loss.forces"] == "huber"
    assert flat["weight.forces.a"] == 0.5
    assert settings_of(flat) == (model, optimiser)
