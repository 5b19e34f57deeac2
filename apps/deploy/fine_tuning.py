"""The start of a fine-tuning: the weights of an earlier ensemble's member, with a branch for each new dataset.

The model keeps all of its function: architecture, scales, and the branch that each new dataset starts from. Reference
energies continue, too: those of the branch, corrected for each element by the robust least-squares fit of the earlier
model's errors on training structures. So data of the same level of theory change nearly nothing, data of another one
move by its difference, and what the new data do not determine stays as it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gfm_pipeline.apps.dataset import Dataset, GraphTable
from gfm_pipeline.apps.dataset.batching.graph_source import read_table
from gfm_pipeline.apps.deploy.bundle import open_ensemble
from gfm_pipeline.apps.train.checkpoint import Checkpoint, CheckpointTensors, ModelCard, TrainedModel, TrainingState
from gfm_pipeline.apps.train.composition_fit import FitSample, fit_composition, sample_size
from gfm_pipeline.core.contracts.data import Split
from gfm_pipeline.core.contracts.dataset_statistics import DatasetStatistics
from gfm_pipeline.core.contracts.optimisation.fine_tuning import WeightsOrigin
from gfm_pipeline.core.contracts.targets import References, Target
from gfm_pipeline.core.contracts.training import TrainSpec
from gfm_pipeline.core.ensemble_files import ensemble_digest
from gfm_pipeline.core.errors import DataError, IntegrityError
from gfm_pipeline.models import ModelSpec, Potential

BATCH = 64  # structures in memory at a time


@dataclass(frozen=True)
class _Branch:
    """A new dataset, and the number and references of the branch that it starts from."""

    name: str
    number: int
    start: References


def earlier_start(spec: TrainSpec, origin: WeightsOrigin, fresh: ModelCard, datasets: Sequence[Dataset]) -> Checkpoint:
    """Return the checkpoint from which a model is fine-tuned, without a state of its optimiser.

    Parameters
    ----------
    spec, origin
        The training, and the member whose weights it starts from.
    fresh
        The card of an untrained model of the same datasets, whose scales of the loss apply.
    datasets
        The datasets, in the order of the model's branches.

    Raises
    ------
    IntegrityError
        When the ensemble is missing, was changed since the campaign read it, or has no such member.
    DataError
        When a dataset has elements that the earlier model does not know.
    """
    member = _member(origin)
    statistics = [dataset.statistics for dataset in datasets]
    for one in statistics:
        _check_elements(one, member, origin)
    branches = [_branch(member, one, origin.branches[one.name], spec.targets) for one in statistics]
    numbers = [branch.number for branch in branches]
    model = Potential(_spec(member.potential.spec, numbers, spec.targets))
    model.load_state_dict(_weights(member.potential, numbers))
    for target in model.shifted:
        model.shift(target).values.zero_()  # the references have them
    model.eval()  # torch's evaluation mode; this is no eval of text
    samples = [_sample(dataset, k, spec, branches[k].start) for k, dataset in enumerate(datasets)]
    fit_composition(model, samples, BATCH)
    references = [_corrected(model, k, branch.start) for k, branch in enumerate(branches)]
    for target in model.shifted:
        model.shift(target).values.zero_()
    card = replace(
        fresh,
        spec=model.spec,
        model=spec.model,
        references={b.name: dict(found["energy"]) for b, found in zip(branches, references, strict=True)},
        target_references={
            b.name: {t: dict(values) for t, values in found.items() if t != "energy"}
            for b, found in zip(branches, references, strict=True)
            if len(found) > 1
        },
        origin=replace(origin, ensemble=Path(origin.ensemble).name),
    )
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    return Checkpoint(card, TrainingState(), CheckpointTensors.of_weights(weights))


def _member(origin: WeightsOrigin) -> TrainedModel:
    found = open_ensemble(origin.ensemble)
    if ensemble_digest(Path(origin.ensemble)) != origin.digest:
        raise IntegrityError(
            f"{origin.ensemble} was changed since the campaign read it.", "Run the workflow again: it is read anew."
        )
    names = found.calibration.members
    if origin.member not in names:
        raise IntegrityError(f"{origin.ensemble} has no member {origin.member}.", "Run the workflow again.")
    return found.members[names.index(origin.member)]


def _check_elements(statistics: DatasetStatistics, member: TrainedModel, origin: WeightsOrigin) -> None:
    known = {symbol for of_dataset in member.references.values() for symbol in of_dataset}
    unknown = [symbol for symbol in statistics.elements if symbol not in known]
    if unknown:
        raise DataError(
            f"Dataset {statistics.name} has {', '.join(unknown)}, which the earlier ensemble "
            f"{Path(origin.ensemble).name} does not know (it knows {', '.join(sorted(known))}).",
            f"Leave such structures out of data.sources.{statistics.name}, or search new models: write search instead "
            "of fine_tune.",
        )


def _branch(member: TrainedModel, statistics: DatasetStatistics, earlier: str, targets: Sequence[Target]) -> _Branch:
    """Return a branch with its references: those of the earlier dataset with the shifts, by element."""
    from ase.data import atomic_numbers

    number, potential = member.datasets.index(earlier), member.potential
    shifts = {t.name: potential.shift(t).values[number].double() for t in potential.shifted}
    fitted = {t.name: statistics.targets[t.name].reference for t in targets if t.name in statistics.targets}
    start: dict[str, dict[str, float]] = {}
    for name, before in member.card.references_of(earlier).items():
        own: Mapping[str, float] = statistics.reference if name == "energy" else fitted.get(name, {})
        if name not in shifts:
            start[name] = dict(before)
            continue
        start[name] = {
            symbol: before.get(symbol, own.get(symbol, 0.0)) + float(shifts[name][atomic_numbers[symbol] - 1])
            for symbol in statistics.elements
        }
    return _Branch(statistics.name, number, start)


def _spec(before: ModelSpec, numbers: Sequence[int], targets: tuple[Target, ...]) -> ModelSpec:
    """Return the description of a model whose branches start from those with the given numbers."""
    if before.dataset_units:
        units = {name: tuple(values[n] for n in numbers) for name, values in before.dataset_units.items()}
    elif len(numbers) > 1:
        units = {t.name: (before.scale(t),) * len(numbers) for t in targets if before.has_head(t)}
    else:
        units = {}
    return replace(before, n_datasets=len(numbers), dataset_units=units, targets=targets)


def _weights(potential: Potential, numbers: Sequence[int]) -> dict[str, Tensor]:
    """Return a state dict with the branches ``numbers``.

    A tensor has a slice per branch if its shape depends on the number of branches.
    """
    count = potential.spec.n_datasets
    wider = Potential(replace(potential.spec, n_datasets=count + 1, dataset_units={})).state_dict()
    found = {}
    for name, tensor in potential.state_dict().items():
        differing = [d for d, (a, b) in enumerate(zip(tensor.shape, wider[name].shape, strict=True)) if a != b]
        found[name] = tensor.index_select(differing[0], torch.tensor(numbers)) if differing else tensor
    return found


def _sample(dataset: Dataset, number: int, spec: TrainSpec, references: References) -> FitSample:
    size = sample_size(dataset.statistics.n_structures[Split.TRAIN], len(dataset.statistics.elements))
    graphs = np.arange(size)
    table: GraphTable = read_table(dataset, Split.TRAIN, spec.model.cutoff, number, references, graphs)
    return FitSample(table, graphs)


def _corrected(model: Potential, number: int, start: References) -> dict[str, dict[str, float]]:
    """Return references with the fitted shifts of a branch added."""
    from ase.data import atomic_numbers

    found = {name: dict(values) for name, values in start.items()}
    for target in model.shifted:
        shift = model.shift(target).values[number].double()
        for symbol in found.get(target.name, {}):
            found[target.name][symbol] += float(shift[atomic_numbers[symbol] - 1])
    return found
