"""Setup of a training: its data, its model, and its newest checkpoint."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from gfm_pipeline.apps.dataset import Dataset, GraphTable
from gfm_pipeline.apps.dataset.batching.graph_source import DiskSource, GraphSource, InMemorySource, read_table
from gfm_pipeline.apps.dataset.neighbors.batched import neighbor_list_on
from gfm_pipeline.apps.dataset.neighbors.edges import NeighborListFn, build_edges
from gfm_pipeline.apps.train.checkpoint import Checkpoint, ModelCard, TrainingState, load, newest
from gfm_pipeline.apps.train.composition_fit import FitSample, fit_sample, sample_size
from gfm_pipeline.apps.train.data_doubts import (
    attribute_ranges,
    attribute_scales,
    check_stated,
    doubts,
    unstated_attributes,
)
from gfm_pipeline.apps.train.device import CPU
from gfm_pipeline.apps.train.distributed import SINGLE, Communicator
from gfm_pipeline.apps.train.loss_scales import dataset_units, loss_scales, readout_units, target_units
from gfm_pipeline.apps.train.sampler import Sampler, draws_per_block
from gfm_pipeline.apps.train.trainer import Splits, Trainer
from gfm_pipeline.apps.train.validate import subset
from gfm_pipeline.core.contracts.data import Split
from gfm_pipeline.core.contracts.dataset_statistics import DatasetStatistics
from gfm_pipeline.core.contracts.optimisation.fine_tuning import WeightsOrigin
from gfm_pipeline.core.contracts.targets import References
from gfm_pipeline.core.contracts.training import TrainSpec, target_weights
from gfm_pipeline.core.errors import ConfigError, DataError
from gfm_pipeline.core.records import from_plain, to_plain
from gfm_pipeline.models import ModelSpec

CHECKPOINTS = "checkpoints"  # folder of the attempt


SAMPLE = 2048  # structures of a split on disk whose neighbours are counted for the scales of a model


SPARSE = 64  # number of ranks from which each rank reads only its own graphs, not whole blocks


def check(spec: TrainSpec) -> None:
    """Refuse a spec that cannot run; raises `ConfigError`."""
    if (spec.budget_graphs is None) == (spec.convergence is None):
        raise ConfigError(f"Task {spec.task} needs exactly one of budget_graphs and convergence.")
    if not spec.datasets:
        raise ConfigError(f"Task {spec.task} names no dataset.")
    optimiser = spec.optimiser
    if optimiser.batch_size < 1 or spec.validate_every < 1 or not optimiser.learning_rate > 0:
        raise ConfigError(f"Task {spec.task} needs batch_size, validate_every and learning_rate above zero.")
    if spec.micro_batch is not None and spec.micro_batch < 1:
        raise ConfigError(f"Task {spec.task} needs a micro_batch above zero.")
    if spec.ranks < 1:
        raise ConfigError(f"Task {spec.task} needs at least one rank.")
    if optimiser.batch_size < spec.ranks:
        raise ConfigError(
            f"Task {spec.task} shares batches of {optimiser.batch_size} graphs between {spec.ranks} ranks: "
            "some would have none.",
            f"Use at most {optimiser.batch_size} ranks, or a larger batch_size.",
        )
    rule = spec.convergence
    if rule is not None and (rule.check_every < 1 or rule.patience < 1 or not rule.anneal_fraction > 0):
        raise ConfigError(f"Task {spec.task} needs check_every, patience and anneal_fraction above zero.")


def _elements(statistics: Sequence[DatasetStatistics]) -> tuple[int, ...]:
    """Return the atomic numbers of all datasets."""
    from ase.data import atomic_numbers  # a training that continues from a checkpoint needs no ASE

    return tuple(sorted({atomic_numbers[symbol] for s in statistics for symbol in s.elements}))


def new_card(spec: TrainSpec, statistics: Sequence[DatasetStatistics], tables: Sequence[GraphTable]) -> ModelCard:
    """Return the card of an untrained model: its scales are facts of the training split.

    Raises
    ------
    DataError
        When no two atoms of a dataset are within the cutoff: a model would see isolated atoms only.
    """
    counted = [table.degrees() for table in tables]
    for dataset, table, neighbours in zip(spec.datasets, tables, counted, strict=True):
        if not neighbours.any() and bool((table.natoms > 1).any()):
            raise DataError(
                f"No two atoms of dataset {dataset.name} are within the cutoff of {spec.model.cutoff:g} Angstrom: "
                "its graphs have no edges.",
                "Raise search.space.cutoff, or correct length_unit of the source.",
            )
    if all(len(table) == s.n_structures[Split.TRAIN] for table, s in zip(tables, statistics, strict=True)):
        check_stated(spec.model, tables)  # a sample may lack what few structures state
    for dataset, table in zip(spec.datasets, tables, strict=True):
        for sentence in doubts(dataset.name, table, spec.model, spec.attributes):
            warnings.warn(sentence, stacklevel=2)
    degrees = np.concatenate(counted)
    draws = draws_per_block([s.n_structures[str(Split.TRAIN)] for s in statistics], spec.temperature)
    rms, scales = readout_units(statistics), target_units(spec.targets, statistics)
    model = spec.model
    return ModelCard(
        spec=ModelSpec(
            **vars(model),
            n_datasets=len(statistics),
            avg_neighbours=max(1.0, float(degrees.mean())),
            avg_log_degree=max(0.1, float(np.log1p(degrees).mean())),
            force_rms=float(np.sqrt(np.mean(np.square(rms)))),
            targets=spec.targets,
            target_scales={name: float(np.sqrt(np.mean(np.square(values)))) for name, values in scales.items()},
            dataset_units=dataset_units(spec.targets, statistics) if len(statistics) > 1 else {},
            balanced_forces=True,
            elements=_elements(statistics),
            unstated=model.condition_names,
            attributes=spec.attributes,
            attribute_scales=attribute_scales(spec.attributes, tables),
        ),
        datasets=tuple(d.name for d in spec.datasets),
        references={d.name: dict(s.reference) for d, s in zip(spec.datasets, statistics, strict=True)},
        target_references={
            d.name: {t.name: dict(s.targets[t.name].reference) for t in spec.targets if t.name in s.targets}
            for d, s in zip(spec.datasets, statistics, strict=True)
            if s.targets
        },
        target_scales=loss_scales(
            spec.targets, target_weights(spec.targets, spec.optimiser), statistics, list(map(float, draws))
        ),
        attributes={d.name: attribute_ranges(table) for d, table in zip(spec.datasets, tables, strict=True)},
        unstated={d.name: unstated_attributes(table) for d, table in zip(spec.datasets, tables, strict=True)},
        force_rms=tuple(rms),
        model=model,
        optimiser=spec.optimiser,
        seed=spec.seed,
    )


def starting_point(spec: TrainSpec) -> Checkpoint | None:
    """Return the starting point: this task's newest complete checkpoint, else the given one, else None.

    Raises
    ------
    IntegrityError
        When the given checkpoint is damaged.
    ConfigError
        When it belongs to another model or other datasets.
    """
    attempts = [Path(folder) / CHECKPOINTS for folder in spec.previous_attempts]
    found = newest(folder for place in attempts for folder in place.glob("graphs-*"))
    if found is None and spec.checkpoint is not None:
        given = load(Path(spec.checkpoint))
        found = replace(given, state=given.state.for_new_task())
    if found is None:
        return None
    names = tuple(d.name for d in spec.datasets)
    card, learned = found.card, [replace(t, weight=1.0).learned() for t in spec.targets]
    if [replace(t, weight=1.0).learned() for t in card.targets] != learned:
        raise ConfigError(
            f"Task {spec.task} continues a checkpoint of a model with other targets "
            f"({', '.join(t.name for t in card.targets)}).",
            "A continued training needs the same targets.",
        )
    if card.model != spec.model or card.datasets != names:
        raise ConfigError(
            f"Task {spec.task} continues a checkpoint of another model or other datasets "
            f"({card.model.algorithm} on {', '.join(card.datasets)}).",
            "A continued training needs the same architecture and datasets.",
        )
    if card.spec.attributes != spec.attributes:
        raise ConfigError(
            f"Task {spec.task} continues a checkpoint of a model of data with other graph attributes.",
            "A continued training needs the same attributes.",
        )
    model = replace(card.spec, targets=spec.targets)
    return replace(found, card=replace(card, spec=model, optimiser=spec.optimiser, seed=spec.seed))


def from_earlier(spec: TrainSpec, origin: WeightsOrigin) -> Checkpoint:
    """Return the start from a member of an earlier ensemble."""
    from gfm_pipeline.apps.deploy.fine_tuning import earlier_start  # here: most trainings need no ensemble

    datasets = [Dataset.open(Path(ref.path)) for ref in spec.datasets]
    samples = []
    for k, dataset in enumerate(datasets):
        graphs = np.arange(min(SAMPLE, dataset.statistics.n_structures[Split.TRAIN]))
        references = dataset.statistics.references
        samples.append(read_table(dataset, Split.TRAIN, spec.model.cutoff, k, references, graphs))
    fresh = new_card(spec, [dataset.statistics for dataset in datasets], samples)
    return earlier_start(spec, origin, fresh, datasets)


def open_source(
    spec: TrainSpec,
    dataset: Dataset,
    number: int,
    references: References,
    ranks: int,
    neighbor_list: NeighborListFn = build_edges,
) -> GraphSource:
    """Return the training split of a dataset: in memory when it is no larger than the window, else on disk.

    A folder without index is also held in memory, since the cost of its graphs is unknown before reading.
    """
    index = dataset.index(Split.TRAIN)
    cutoff = spec.model.cutoff
    if index is None or len(index) <= spec.window:
        return InMemorySource(read_table(dataset, Split.TRAIN, cutoff, number, references, neighbor_list=neighbor_list))
    window = 0 if ranks >= SPARSE else spec.window
    return DiskSource(dataset, Split.TRAIN, index, cutoff, number, references, window, neighbor_list)


def prepare(spec: TrainSpec, communicator: Communicator = SINGLE, device: torch.device = CPU) -> Trainer:
    """Read the data and build or restore the model.

    Every rank opens the data; only rank 0 searches for checkpoints and broadcasts the result.

    Raises
    ------
    GFMError
        When the data, the checkpoint or the settings cannot be used.
    """
    start = starting_point(spec) if communicator.rank == 0 else None
    if start is None and communicator.rank == 0 and spec.origin is not None:
        start = from_earlier(spec, spec.origin)
    card, state = None if start is None else start.card, None if start is None else start.state
    if communicator.size > 1:
        plain = communicator.broadcast_object(None if start is None else [to_plain(start.card), to_plain(start.state)])
        card, state = (
            (None, None) if plain is None else (from_plain(ModelCard, plain[0]), from_plain(TrainingState, plain[1]))
        )
    neighbor_list = neighbor_list_on(device)
    train: list[GraphSource] = []
    validation, statistics, samples = {}, [], []
    fitted: list[FitSample] = []
    for k, ref in enumerate(spec.datasets):
        dataset = Dataset.open(Path(ref.path))
        statistics.append(dataset.statistics)
        references = dataset.statistics.references if card is None else card.references_of(ref.name)
        source = open_source(spec, dataset, k, references, communicator.size, neighbor_list)
        train.append(source)
        fitted.append(fit_sample(source, sample_size(len(source), len(dataset.statistics.elements)), communicator))
        if card is None and communicator.rank == 0:
            # ingest shuffles, so the first structures are a random sample
            samples.append(
                source.table(np.arange(len(source) if source.block is None else min(len(source), SAMPLE)))[0]
            )
        chosen = (
            None
            if spec.validation_limit is None
            else subset(dataset.statistics.n_structures[Split.VALIDATION], spec.validation_limit)
        )
        validation[ref.name] = read_table(
            dataset, Split.VALIDATION, spec.model.cutoff, k, references, chosen, neighbor_list
        )
    if card is None:
        made = new_card(spec, statistics, samples) if communicator.rank == 0 else None
        card = (
            made
            if made is not None and communicator.size == 1
            else from_plain(ModelCard, communicator.broadcast_object(to_plain(made)))
        )
    blocks = [source.block for source in train]
    window = max(1, spec.window // max((block for block in blocks if block is not None), default=spec.window))
    sampler = Sampler([len(t) for t in train], spec.temperature, spec.seed, blocks, window)
    splits = Splits(tuple(train), validation, tuple(fitted))
    tensors = None if start is None else start.tensors
    return Trainer(
        card,
        splits,
        spec.optimiser,
        sampler,
        tensors,
        state,
        spec.micro_batch,
        communicator,
        device,
        spec.schedule_graphs,
    )
