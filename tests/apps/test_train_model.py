"""`train_model` and what it is asked to learn."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ingest_cases import labelled, run_all

from gfm_pipeline import evaluate_model, train_model
from gfm_pipeline.api.training_defaults import default_compile, default_hyperparameters, default_model
from gfm_pipeline.apps.dataset import Dataset
from gfm_pipeline.apps.train.checkpoint import load
from gfm_pipeline.apps.train.compiled import TrainingPass
from gfm_pipeline.core.contracts.data import SourceSettings, Split
from gfm_pipeline.core.contracts.targets import FORCES, Level, Reference, Target
from gfm_pipeline.core.contracts.training import Compile
from gfm_pipeline.core.errors import GFMError

SIZE = Target("extent", "Angstrom", "how far atoms stand from the centre", Level.GRAPH, reference=Reference.MEAN)
SMALL = {"hidden": 4, "layers": 1, "cutoff": 3.0, "graphs": 32}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Dataset:
    from ase.io import write

    folder = tmp_path_factory.mktemp("data")
    frames = labelled(24)
    for atoms in frames:
        atoms.info["extent"] = float(np.linalg.norm(atoms.positions - atoms.positions.mean(0), axis=1).mean())
    write(folder / "x.extxyz", frames)
    source = SourceSettings("d", "ase", (str(folder / "x.extxyz"),), group_key="@record", targets=(SIZE,))
    return Dataset.open(Path(run_all(folder / "work", source).output))


def test_names_weights_and_records_say_what_is_learned(dataset, tmp_path):
    result = train_model(dataset, tmp_path / "a", targets=["extent", "energy"], **SMALL)
    assert list(result.errors["d"].others) == ["extent"]
    assert list(evaluate_model(tmp_path / "a", dataset).others) == ["extent"]
    train_model(dataset, tmp_path / "b", targets={"energy": 1, "forces": 3, "extent": 0.25}, **SMALL)
    card = load(tmp_path / "b").card
    assert [(t.name, t.weight) for t in card.targets] == [("energy", 1.0), ("forces", 3.0), ("extent", 0.25)]
    assert card.optimiser.force_weight == 3.0
    train_model(dataset, tmp_path / "c", targets=[FORCES, replace(SIZE, weight=2.0)], force_head="direct", **SMALL)
    assert [t.name for t in load(tmp_path / "c").card.targets] == ["forces", "extent"]


def test_a_training_that_names_nothing_takes_small_steps_and_ends_at_a_rate_of_zero(dataset, tmp_path):
    train_model(dataset, tmp_path / "d", **SMALL)
    of_data, optimiser = dataset.statistics, load(tmp_path / "d").card.optimiser
    atoms = of_data.n_atoms[Split.TRAIN] / of_data.n_structures[Split.TRAIN]
    assert optimiser.batch_size == min(16, max(1, round(64 / atoms)))
    assert optimiser.schedule == "cosine"
    large = replace(of_data, n_atoms={**of_data.n_atoms, Split.TRAIN: 192 * of_data.n_structures[Split.TRAIN]})
    crystals = replace(dataset, statistics=large)
    assert default_hyperparameters([crystals], "cpu", 100)["batch_size"] == 1
    assert default_hyperparameters([crystals], "cuda", 100)["batch_size"] == 16
    assert default_hyperparameters([crystals, dataset], "cpu", 100)["batch_size"] in range(1, 5)
    assert optimiser.warmup == 1  # of two to ten steps
    assert default_hyperparameters([crystals], "cpu", 200)["warmup"] == 10
    assert default_hyperparameters([crystals], "cpu", 10_000)["warmup"] == 50


def test_a_training_is_compiled_where_its_length_pays_for_it_or_on_request(dataset, tmp_path, monkeypatch):
    assert default_compile([dataset], 100) is Compile.NEVER
    assert default_compile([dataset], 10_000_000) is Compile.ALWAYS
    passes = []

    def compiled(model):
        passes.append(TrainingPass(model, "eager"))  # traced, and not compiled, which would take a minute
        return passes[-1]

    monkeypatch.setattr("gfm_pipeline.apps.train.task.compiled_pass", compiled)
    train_model(dataset, tmp_path / "eager", **SMALL)
    assert not passes
    train_model(dataset, tmp_path / "compiled", compile=True, **SMALL)
    assert [one.compiled for one in passes] == [True]
    with pytest.raises(GFMError, match="compile must be True, False or None, not 'auto'"):
        train_model(dataset, tmp_path / "wrong", compile="auto", **SMALL)
    assert not list(tmp_path.glob("wrong*"))


def test_edges_and_passes_decide_the_model_of_a_training_that_names_none(dataset, tmp_path):
    of_data = dataset.statistics
    dense = tuple(replace(one, mean=60.0) for one in of_data.neighbours)
    large = {**of_data.n_atoms, Split.TRAIN: 100 * of_data.n_structures[Split.TRAIN]}
    crystals = replace(dataset, statistics=replace(of_data, neighbours=dense, n_atoms=large))
    passes = of_data.n_structures[Split.TRAIN]
    assert default_model([dataset], "cpu", 20 * passes - 1)["algorithm"] == "PaiNN"
    assert default_model([dataset], "cpu", 20 * passes) == {"algorithm": "MACE", "hidden": 32, "layers": 2}
    assert default_model([crystals], "cpu", 20 * passes) == {"algorithm": "EGNN", "hidden": 32, "layers": 2}
    assert default_model([crystals], "cuda", passes)["algorithm"] == "PaiNN"
    few = {**SMALL, "graphs": 4}
    train_model(crystals, tmp_path / "m", **few)
    assert load(tmp_path / "m").card.model.algorithm == "EGNN"
    # a training that began with another model goes on with it
    begun = tmp_path / "n.work" / "checkpoints" / "graphs-000000000004"
    train_model(dataset, tmp_path / "d", algorithm="SchNet", **few)
    shutil.copytree(tmp_path / "d", begun)
    result = train_model(crystals, tmp_path / "n", **{**few, "graphs": 20})
    assert (load(tmp_path / "n").card.model.algorithm, result.graphs) == ("SchNet", 20)


@pytest.mark.parametrize(
    ("targets", "sentence"),
    [
        (["energy", "extend"], "extend"),
        (["energy", "stress"], "No dataset has labels of the target stress"),
        (["forces"], "derivative of the energy"),
        (["energy", "energy"], "named twice"),
        ([], "at least one target"),
    ],
)
def test_what_cannot_be_learned_is_refused_in_a_sentence(dataset, tmp_path, targets, sentence):
    with pytest.raises(GFMError, match=sentence):
        train_model(dataset, tmp_path / "x", targets=targets, **SMALL)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"loss": "hubber"}, "Did you mean huber"),
        ({"loss": ["l1"]}, "loss must be one of"),
        ({"optimiser": "adam"}, "Did you mean adamw"),
        ({"schedule": "cosinus"}, "Did you mean cosine"),
        ({"precision": "fp8"}, "precision must be one of"),
        ({"losses": {"force": "l1"}}, "the target 'force' is not trained. Did you mean forces"),
        ({"losses": "l1"}, "losses must be a mapping"),
        ({"weights": {"dipole": 1.0}}, "the target 'dipole' is not trained"),
        ({"weights": {"forces.e": 1.0}}, "the dataset 'e' is not trained"),
        ({"weights": {"forces": -1.0}}, "weights: forces must be a number from 0"),
        ({"targets": {"energy": float("nan")}}, "targets: energy must be a number from 0"),
        ({"accumulation": 0}, "accumulation must be a whole number from 1"),
        ({"options": {"sharpness": 1.0}}, "options: sharpness is not an option of PaiNN"),
        ({"hiden": 3}, "Did you mean hidden"),
        ({"device": "gpu"}, "There is no device 'gpu'"),
        ({"device": "xpu"}, "built without it"),
        ({"layers": 0}, "layers must be a whole number from 1 to 64, not 0"),
        ({"hidden": "8"}, "hidden must be a whole number from 1 to 16384"),
        ({"cutoff": np.nan}, "cutoff must be a number from 0.5 to 30, not .nan"),
        ({"algorithm": "painn"}, "Did you mean PaiNN"),
        ({"activation": "silu"}, "no argument or hyperparameter 'activation'"),
        ({"seed": -1}, "seed must be a whole number of at least 0"),
        ({"graphs": 0}, "graphs must be a whole number of at least 1"),
    ],
)
def test_a_wrong_argument_is_refused_in_a_sentence_and_leaves_nothing(dataset, tmp_path, arguments, sentence):
    with pytest.raises(GFMError) as caught:
        train_model(dataset, tmp_path / "x", **SMALL | arguments)
    assert sentence in str(caught.value)
    assert "journal" not in str(caught.value)
    assert not list(tmp_path.iterdir())
