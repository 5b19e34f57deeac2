"""Training on targets beside energy and forces: all learn, in parts and shares as in one piece."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from training_cases import REFERENCE, morse_columns, small_spec

from gfm_pipeline.apps.dataset import Columns, GraphTable, collate
from gfm_pipeline.apps.dataset.batching.graph_source import InMemorySource
from gfm_pipeline.apps.train.batch_loader import BatchLoader
from gfm_pipeline.apps.train.checkpoint import load, load_model, save
from gfm_pipeline.apps.train.sampler import Sampler
from gfm_pipeline.apps.train.setup import new_card, starting_point
from gfm_pipeline.apps.train.trainer import Splits, Trainer
from gfm_pipeline.core.contracts.data import Split
from gfm_pipeline.core.contracts.dataset_statistics import DatasetStatistics, TargetStatistics
from gfm_pipeline.core.contracts.targets import (
    BAND_GAP,
    CHARGES,
    DEFAULT,
    DIPOLE,
    OF_MEAN,
    STRESS,
    Level,
    Rank,
    Reference,
    Target,
)
from gfm_pipeline.core.contracts.training import DatasetRef, ModelSettings, TrainSpec
from gfm_pipeline.core.errors import ConfigError, DataError
from gfm_pipeline.models import ForceHead, ModelSpec, Potential

SIZE = Target("size", "Angstrom", "mean distance from the centre", reference=Reference.MEAN, weight=2.0)
MOMENT = Target("moment", "Angstrom^2", "second moment of the atoms", rank=Rank.TENSOR, extensive=True)
TARGETS = (*DEFAULT, SIZE, DIPOLE, CHARGES, MOMENT)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def labelled(seed: int, n: int) -> Columns:
    """Clusters with labels in closed form; some are missing."""
    columns = morse_columns(seed, n, 1.0)
    graph = np.repeat(np.arange(n), columns.natoms)
    centre = np.add.reduceat(columns.pos, columns.offsets[:-1]) / columns.natoms[:, None]
    arm = columns.pos - centre[graph]
    charge = np.where(columns.numbers == 8, -0.8, 0.4)
    charge -= (np.add.reduceat(charge, columns.offsets[:-1]) / columns.natoms)[graph]
    of_atoms = {
        "size": np.linalg.norm(arm, axis=1),
        "dipole": charge[:, None] * arm,
        "moment": arm[:, :, None] * arm[:, None],
    }
    sums = {name: np.add.reduceat(values, columns.offsets[:-1]) for name, values in of_atoms.items()}
    sums["size"] /= columns.natoms
    sums["dipole"][::5] = np.nan
    charge[columns.offsets[3] : columns.offsets[4]] = np.nan
    return replace(
        columns,
        graph_labels={**columns.graph_labels, **{name: values.astype(np.float32) for name, values in sums.items()}},
        atom_labels={**columns.atom_labels, "charges": charge.astype(np.float32)},
    )


def facts_of(table: GraphTable, targets: tuple[Target, ...], mean: float) -> DatasetStatistics:
    def of(target: Target) -> TargetStatistics:
        labels = (table.graph_labels if target.level is Level.GRAPH else table.atom_labels)[target.name]
        size = table.natoms.reshape(-1, *[1] * (labels.ndim - 1)) if target.per_atom else 1
        scale, reference = float(np.sqrt(np.nanmean((labels / size) ** 2))), {OF_MEAN: mean} if target == SIZE else {}
        return TargetStatistics(target, {str(s): len(labels) for s in Split}, reference, scale, {})

    counts = {str(s): len(table) for s in Split}
    rms = float(np.sqrt(np.nanmean(table.atom_labels["forces"] ** 2)))
    found = DatasetStatistics(
        "d", counts, counts, counts, ("H", "O"), REFERENCE, 2, "fit", rms, 1.0, {}, {}, 4, 0, {}
    )  # fmt: skip
    return replace(found, targets={t.name: of(t) for t in targets if t not in DEFAULT})


def make(targets: tuple[Target, ...], algorithm: str = "PaiNN", **changes) -> Trainer:
    mean = float(np.mean(labelled(0, 96).graph_labels["size"]))
    references = {"energy": REFERENCE, "size": {OF_MEAN: mean}}
    train, validation = (GraphTable.build(labelled(k, n), 3.0, 0, references) for k, n in ((0, 96), (1, 24)))
    model = ModelSettings(
        algorithm, hidden=16, layers=2, cutoff=3.0, force_head=changes.pop("force_head", "conservative")
    )
    spec = replace(small_spec((DatasetRef("d", ""),), Path("x")), model=model, targets=targets)
    card = new_card(spec, [facts_of(train, targets, mean)], [train])
    splits = Splits((InMemorySource(train),), {"d": validation})
    return Trainer(card, splits, spec.optimiser, Sampler([96], 2.0, 1), **changes)


@pytest.mark.parametrize(("algorithm", "head"), [("SchNet", ForceHead.CONSERVATIVE), ("PaiNN", ForceHead.DIRECT)])
def test_all_targets_learn_at_once(algorithm, head):
    trainer = make(TARGETS, algorithm, force_head=head)
    found = trainer.validate(None)
    before, first = found.objective, found.errors
    for _ in range(150):
        trainer.step()
    found = trainer.validate(None)
    after, errors = found.objective, found.errors
    assert [error.target for error in errors["d"].by_target()] == list(TARGETS)
    assert after < 0.5 * before
    for one, two in zip(first["d"].by_target(), errors["d"].by_target(), strict=True):
        assert one.null == two.null
        assert two.ratio < 0.75 * one.ratio, two.target.name
    assert after == pytest.approx(np.mean([error.ratio for error in errors["d"].by_target()]))
    card = trainer.card
    assert card.references_of("d").keys() == {"energy", "size", "dipole", "charges", "moment"}
    assert card.spec.target_scales["moment"] == pytest.approx(card.target_scales["moment"][0])


def test_parts_and_shares_of_a_batch_have_the_gradient_of_the_whole():
    whole = make(TARGETS)
    value = float(whole._accumulate())
    gradient = whole.weights.grad.clone()
    for micro_batch, ranks in ((3, 1), (None, 2), (2, 3)):
        total, found = 0.0, torch.zeros_like(gradient)
        for rank in range(ranks):
            part = make(TARGETS, micro_batch=micro_batch)
            part.loader = BatchLoader(part.splits.train, Sampler([96], 2.0, 1), 8, rank, ranks, micro_batch)
            total += float(part._accumulate())
            found += part.weights.grad
        assert total == pytest.approx(value, rel=1e-5)
        torch.testing.assert_close(found, gradient, rtol=1e-3, atol=1e-5)


def test_a_model_of_other_targets_alone_learns_and_is_kept(tmp_path):
    trainer = make((DIPOLE, CHARGES))
    before = trainer.validate(None).objective
    for _ in range(60):
        trainer.step()
    found = trainer.validate(None)
    after, errors = found.objective, found.errors
    assert after < 0.7 * before
    assert (errors["d"].null_energy_mae, errors["d"].energy_mae) == (0.0, 0.0)
    save(tmp_path / "c", trainer.card, trainer.state, trainer.tensors())
    model = load_model(tmp_path / "c")
    assert model.targets == (DIPOLE, CHARGES)
    batch = collate([trainer.splits.validation["d"]], np.zeros(24, np.int64), np.arange(24))
    for name, values in model.potential(batch).values.items():
        assert torch.equal(values, trainer.average(batch).values[name])
    charges = model.potential(batch).values["charges"]
    sums = torch.zeros(24).index_add(0, batch.graph, charges)
    torch.testing.assert_close(sums, torch.zeros(24), rtol=0, atol=1e-5)


def test_a_training_goes_on_with_the_same_targets_only(tmp_path):
    trainer = make(TARGETS)
    save(tmp_path / "c", trainer.card, trainer.state, trainer.tensors())
    spec = TrainSpec("t", trainer.card.model, trainer.settings, (DatasetRef("d", ""),), 3, "", 8)
    given = replace(spec, checkpoint=str(tmp_path / "c"), targets=TARGETS)
    assert starting_point(given).card.targets == TARGETS
    heavier = tuple(replace(t, weight=7.0) for t in TARGETS)
    assert starting_point(replace(given, targets=heavier)).card.targets == heavier
    with pytest.raises(ConfigError, match="a model with other targets"):
        starting_point(replace(given, targets=DEFAULT))
    assert load(tmp_path / "c").card.spec.balanced_forces


def test_a_target_that_no_dataset_labels_is_refused():
    table = make(TARGETS).splits.validation["d"]
    spec = replace(small_spec((DatasetRef("d", ""),), Path("x")), targets=(*TARGETS, BAND_GAP))
    facts = facts_of(table, TARGETS, 0.0)
    with pytest.raises(DataError, match="No dataset has labels of the target band_gap"):
        new_card(spec, [facts], [table])


def crystals(seed: int, n: int, teacher: Potential) -> GraphTable:
    """Small crystals, labelled by a model whose weights are known."""
    rng = np.random.default_rng(seed)
    frac = np.array([[0, 0, 0], [0.5, 0.5, 0.5]])
    cell = 2.6 * np.eye(3) + rng.normal(scale=0.15, size=(n, 3, 3))
    pos = np.einsum("ai,gij->gaj", frac, cell) + rng.normal(scale=0.1, size=(n, 2, 3))
    columns = Columns.build(
        numbers=rng.choice([1, 8], 2 * n),
        pos=pos.reshape(-1, 3),
        forces=np.full((2 * n, 3), np.nan),
        energy=np.full(n, np.nan),
        cell=cell,
        pbc=np.ones((n, 3)),
        natoms=np.full(n, 2),
    )
    table = GraphTable.build(columns, 3.0, 0, {})
    found = teacher(collate([table], np.zeros(n, np.int64), np.arange(n)), stress=True).values
    labels = {name: values.numpy() for name, values in found.items()}
    graph_labels = {"energy": labels["energy"], "stress": labels["stress"]}
    return replace(table, graph_labels=graph_labels, atom_labels={"forces": labels["forces"]})


def test_stress_is_learned_from_stress_alone():
    torch.manual_seed(0)
    teacher = Potential(ModelSpec("SchNet", 16, 2, 3.0, force_rms=5.0))
    train, validation = crystals(0, 48, teacher), crystals(1, 16, teacher)
    targets = (*DEFAULT, STRESS)
    facts = facts_of(train, targets, 0.0)
    for table in (train, validation):
        table.graph_labels["energy"][:] = np.nan
        table.atom_labels["forces"][:] = np.nan
    spec = replace(small_spec((DatasetRef("d", ""),), Path("x")), targets=targets)
    trainer = Trainer(
        new_card(spec, [facts], [train]),
        Splits((InMemorySource(train),), {"d": validation}),
        spec.optimiser,
        Sampler([48], 2.0, 1),
    )
    before = trainer.validate(None).objective
    for _ in range(80):
        trainer.step()
    found = trainer.validate(None)
    after, errors = found.objective, found.errors
    assert [error.target for error in errors["d"].by_target()] == [STRESS]
    assert after < 0.3 * before


def test_charge_states_that_a_model_is_not_told_of_are_warned_of():
    columns = labelled(0, 24)
    attributes = np.zeros_like(columns.graph_attr)
    attributes[::2, 0] = -1.0
    table = GraphTable.build(replace(columns, graph_attr=attributes), 3.0, 0, {"energy": REFERENCE})
    spec, facts = small_spec((DatasetRef("d", ""),), Path("x")), facts_of(table, DEFAULT, 0.0)
    with pytest.warns(UserWarning, match="Dataset d mixes structures of charge -1 to 0.*Set condition_on to charge"):
        new_card(spec, [facts], [table])
    told = replace(spec, model=replace(spec.model, condition_on="charge"))
    card = new_card(told, [facts], [table])
    assert (card.attributes, card.unstated) == ({"d": {"charge": (-1.0, 0.0)}}, {"d": ("spin",)})
    assert card.spec.unstated == ("charge",)
    silent = attributes.copy()
    silent[1::2, 0] = np.nan
    half = GraphTable.build(replace(columns, graph_attr=silent), 3.0, 0, {"energy": REFERENCE})
    with pytest.warns(UserWarning, match="structures of charge -1 e, and others that do not state theirs"):
        new_card(spec, [facts], [half])
    assert new_card(told, [facts], [half]).unstated == {"d": ("charge", "spin")}
    trainer = Trainer(card, Splits((InMemorySource(table),), {"d": table}), spec.optimiser, Sampler([24], 2.0, 1))
    before = trainer.model.conditioning.outer.weight.detach().clone()
    trainer.step()
    assert not torch.equal(trainer.model.conditioning.outer.weight, before)
