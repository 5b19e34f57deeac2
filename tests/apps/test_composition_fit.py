"""What is linear in composition is solved from training structures, and becomes part of the model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from training_cases import REFERENCE, morse_columns, publish_dataset, small_spec

from gfm_pipeline.apps.dataset import Columns, Dataset, GraphTable, collate
from gfm_pipeline.apps.dataset.batching.graph_source import InMemorySource
from gfm_pipeline.apps.train.checkpoint import load, load_model, save
from gfm_pipeline.apps.train.composition_fit import MOST, fit_composition, fit_sample, sample_size
from gfm_pipeline.apps.train.setup import prepare
from gfm_pipeline.apps.train.validate import validate
from gfm_pipeline.core.contracts.data import Split
from gfm_pipeline.core.contracts.targets import ENERGY
from gfm_pipeline.models import ModelSpec, Potential

pytestmark = pytest.mark.usefixtures("one_thread")
OFF = {1: 0.4, 8: -1.7}  # eV per atom


def columns_of(seed: int, n: int, numbers: tuple[int, ...] | None = None) -> Columns:
    found = morse_columns(seed, n, 1.0)
    if numbers is not None:
        found = found.take(np.flatnonzero(found.natoms == len(numbers)))
        found.numbers[:] = np.tile(numbers, len(found))
        found.energy[:] = found.natoms * 0.0
    return found


def off_by(model: Potential, columns: Columns, off: dict[int, float]) -> GraphTable:
    """Structures whose labels are what the model says, and so much more for each atom."""
    table = GraphTable.build(columns, 3.0, 0, {"energy": REFERENCE})
    batch = collate([table], np.zeros(len(table), dtype=np.int64), np.arange(len(table)))
    more = np.add.reduceat([off[z] for z in columns.numbers], columns.offsets[:-1])
    labels = model.head_values(batch)["energy"].numpy() + more
    forces = model(batch).forces.numpy()
    return replace(table, graph_labels={"energy": labels.astype(np.float32)}, atom_labels={"forces": forces + 0.1})


def model_of(n_datasets: int = 1) -> Potential:
    torch.manual_seed(0)
    return Potential(ModelSpec("SchNet", 8, 1, 3.0, n_datasets=n_datasets, elements=(1, 8)))


def fitted(model: Potential, *tables: GraphTable) -> torch.Tensor:
    fit_composition(model, [fit_sample(InMemorySource(t), len(t)) for t in tables], 16)
    return model.shift(ENERGY).values


def test_an_error_linear_in_composition_is_cured():
    model = model_of()
    train, held_out = (off_by(model, columns_of(seed, 60), OFF) for seed in (0, 1))
    before = validate(model, {"d": held_out}, None).errors
    shift = fitted(model, train)
    after = validate(model, {"d": held_out}, None).errors
    assert before["d"].energy_mae > 0.3
    assert after["d"].energy_mae < 1e-5
    assert after["d"].force_mae == before["d"].force_mae == pytest.approx(0.1, rel=1e-5)
    assert shift[0, [0, 7]].tolist() == pytest.approx([0.4, -1.7], abs=1e-4)
    assert torch.count_nonzero(shift) == 2
    assert torch.equal(fitted(model, train), shift)  # whatever it was before


def test_one_composition_alone_says_nothing_of_its_elements_and_is_cured():
    model = model_of()
    train, held_out = (off_by(model, columns_of(seed, 60, (8, 1, 1)), OFF) for seed in (0, 1))
    shift = fitted(model, train)
    assert validate(model, {"d": held_out}, None).errors["d"].energy_mae < 1e-5
    assert float(shift.abs().max()) < 1.0  # the smallest numbers that do it


def test_each_dataset_has_its_own_and_wrong_labels_have_little_say():
    model = model_of(3)
    first, second = (off_by(model, columns_of(seed, 100), {1: e, 8: -e}) for seed, e in ((0, 0.2), (1, -0.3)))
    second.graph_labels["energy"][::25] += 1000.0
    second.graph_labels["energy"][1::25] = np.nan
    unlabelled = replace(first, graph_labels={"energy": np.full(len(first), np.nan, dtype=np.float32)})
    shift = fitted(model, first, replace(second, dataset=1), replace(unlabelled, dataset=2))
    assert shift[0, [0, 7]].tolist() == pytest.approx([0.2, -0.2], abs=1e-4)
    # 4 per cent of labels are wrong by 300 eV per atom: least squares alone would be off by more than 5
    assert shift[1, [0, 7]].tolist() == pytest.approx([-0.3, 0.3], abs=0.2)
    assert not shift[2].any()


def test_a_fit_reads_a_bounded_share_of_the_training_split_in_parts_that_do_not_overlap():
    assert (sample_size(80, 3), sample_size(10**6, 3), sample_size(10**6, 80)) == (80, 256, MOST)
    source = InMemorySource(GraphTable.build(columns_of(0, 9), 3.0, 0, {"energy": REFERENCE}))

    class Rank:
        size = 4

        def __init__(self, rank: int) -> None:
            self.rank = rank

    shares = [fit_sample(source, 3, Rank(rank)).graphs for rank in range(4)]
    assert np.sort(np.concatenate(shares)).tolist() == [0, 1, 2]
    assert len(shares[3]) == 0


def test_published_weights_are_fitted_and_those_that_train_on_are_not(tmp_path):
    ref = publish_dataset(tmp_path, "soft", 0, 1.0)
    trainer = prepare(small_spec((ref,), tmp_path / "out"))
    for _ in range(20):
        trainer.step()
    trainer.validate(None)
    save(tmp_path / "out", trainer.card, trainer.state, trainer.tensors())
    served, going_on = load_model(tmp_path / "out"), load(tmp_path / "out")
    assert served.potential.shift(ENERGY).values.any()
    assert not going_on.tensors.weights["shift_energy.values"].any()
    table = GraphTable.build(Dataset.open(Path(ref.path)).columns(Split.TRAIN), 3.0, 0, {"energy": REFERENCE})
    batch = collate([table], np.zeros(len(table), dtype=np.int64), np.arange(len(table)))
    error = (served.potential(batch).energy - batch.labels["energy"]) / batch.natoms
    assert abs(float(error.mean())) < 0.2 * float(error.abs().mean())


def test_weights_of_before_have_no_shift():
    model = model_of()
    fitted(model, off_by(model, columns_of(0, 30), OFF))
    former = {name: value for name, value in model_of().state_dict().items() if not name.startswith("shift_")}
    model.load_state_dict(former)
    assert not model.shift(ENERGY).values.any()
