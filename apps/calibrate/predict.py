"""``python -m gfm_pipeline.apps.calibrate.predict SPEC.json``: one member's predictions of each split."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gfm_pipeline.apps.calibrate.aggregate import (
    DISTANCE_KEY,
    NUMBERS_KEY,
    POOLED_KEY,
    RIGIDITY_KEY,
    domain_file,
    label_key,
    predictions_file,
    reference_key,
    spread_key,
    values_key,
)
from gfm_pipeline.apps.calibrate.domain import Domain, FeatureMoments, InOrder, pooled, recorded_features
from gfm_pipeline.apps.calibrate.training_sample import left_out_distances, training_sample
from gfm_pipeline.apps.calibrate.uncertainty import RigidityMoments, recorded_last_layer, rigidity
from gfm_pipeline.apps.dataset import Columns, Dataset, GraphTable, collate
from gfm_pipeline.apps.dataset.batching.graph_table import reference_values
from gfm_pipeline.apps.dataset.neighbors.batched import neighbor_list_on
from gfm_pipeline.apps.dataset.neighbors.edges import NeighborListFn, build_edges
from gfm_pipeline.apps.dataset.store.edge_files import StoredEdges
from gfm_pipeline.apps.runtime.program import Task, run_program
from gfm_pipeline.apps.train.checkpoint import TrainedModel, load_model
from gfm_pipeline.apps.train.device import CPU, torch_device
from gfm_pipeline.core.contracts.data import Split
from gfm_pipeline.core.contracts.evaluation import PredictResult, PredictSpec
from gfm_pipeline.core.contracts.targets import Level, Reference
from gfm_pipeline.core.errors import DataError
from gfm_pipeline.core.publish import publishing, read_manifest, storage_errors
from gfm_pipeline.models.batch import Batch

PRODUCER = "gfm_pipeline.apps.calibrate.predict 1"
SPLITS = (Split.VALIDATION, Split.TEST)
_CHUNK = 2048  # structures whose edges are in memory at a time


def predict_columns(
    model: TrainedModel,
    columns: Columns,
    dataset: str,
    batch_size: int,
    task: Task | None = None,
    device: torch.device = CPU,
    edges: StoredEdges | None = None,
    neighbor_list: NeighborListFn = build_edges,
    spreads: dict[str, NDArray[np.float64]] | None = None,
) -> dict[str, NDArray[np.float64]]:
    """Return the values of each target of the model, of structures [G, ...] or atoms [N, ...].

    References are added in float64: energies are total energies.

    The model's weights must be on ``device``. ``edges`` are the stored edges of ``columns`` within the model's cutoff
    or more; None: ``neighbor_list`` lists them. ``spreads`` is filled with the spread of each target that has one, if
    the model has a shallow ensemble.

    Raises
    ------
    DataError
        When the model has no head for ``dataset``, or an element has no reference energy.
    StopRequested
        Between two batches, after a request to stop ``task``.
    """
    if dataset not in model.datasets:
        raise DataError(f"The model has no head for dataset {dataset!r}, only {', '.join(model.datasets)}.")
    head, references = model.datasets.index(dataset), model.card.references_of(dataset)
    rows = {Level.GRAPH: len(columns), Level.ATOM: len(columns.numbers)}
    found = {target.name: np.zeros((rows[target.level], *target.shape)) for target in model.targets}
    for place, batch in _batches(model, columns, head, batch_size, edges, neighbor_list):
        if task is not None:
            task.check()
            task.report_progress(dataset=dataset, done=place.start, total=len(columns))
        out = model.potential(batch.to(device), spreads=spreads is not None)
        places = {Level.GRAPH: place, Level.ATOM: slice(*columns.offsets[[place.start, place.stop]])}
        for target in model.targets:
            found[target.name][places[target.level]] = out.values[target.name].cpu().double().numpy()
            if spreads is not None and target.name in out.spreads:
                of_target = spreads.setdefault(target.name, np.zeros_like(found[target.name]))
                of_target[places[target.level]] = out.spreads[target.name].cpu().double().numpy()
    for target in model.targets:
        if reference := references.get(target.name):
            found[target.name] += reference_values(columns, reference, target.name, target.level)
    return found


def _batches(
    model: TrainedModel,
    columns: Columns,
    head: int,
    batch_size: int,
    edges: StoredEdges | None,
    neighbor_list: NeighborListFn,
    before: int = 0,
) -> Iterator[tuple[slice, Batch]]:
    """Yield batches and their structures; ``before`` structures precede them in the stored ``edges``."""
    references = model.card.references_of(model.datasets[head])
    for first in range(0, len(columns), _CHUNK):
        chosen = np.arange(first, min(first + _CHUNK, len(columns)))
        part, stored = columns.take(chosen), None if edges is None else edges.read(before + chosen)
        spec = model.card.spec
        table = GraphTable.build(part, spec.cutoff, head, references, stored, neighbor_list, spec.attributes)
        for start in range(0, len(part), batch_size):
            graphs = np.arange(start, min(start + batch_size, len(part)))
            yield slice(first + start, first + start + len(graphs)), collate([table], np.zeros_like(graphs), graphs)


def _arrays(
    model: TrainedModel, columns: Columns, dataset: str, values: Mapping[str, NDArray[np.float64]]
) -> dict[str, NDArray[np.generic]]:
    """Return the published arrays of one split: predictions and labels of each target, and data for figures."""
    labels = {**columns.graph_labels, **columns.atom_labels}
    found: dict[str, NDArray[np.generic]] = {
        "natoms": columns.natoms,
        "group": columns.group,
        NUMBERS_KEY: columns.numbers,
    }
    for target in model.targets:
        value = values[target.name]
        label = labels.get(target.name)
        found[values_key(target.name)] = value
        found[label_key(target.name)] = np.full_like(value, np.nan) if label is None else label.astype(np.float64)
        if target.reference is Reference.ELEMENTS and target.level is Level.GRAPH:
            reference = model.card.references_of(dataset)[target.name]
            found[reference_key(target.name)] = reference_values(columns, reference, target.name, target.level)
    return found


@dataclass(frozen=True)
class _Trained:
    """What a member makes of the training split of a dataset: sums of features, and the domain that they give."""

    moments: FeatureMoments
    rigid: RigidityMoments
    domain: Domain | None  # None for models without features of atoms


def _trained(
    model: TrainedModel, dataset: Dataset, spec: PredictSpec, task: Task, neighbor_list: NeighborListFn
) -> _Trained:
    """Read the whole training split; some thousands of structures are in memory at a time."""
    device = torch_device(spec.device)
    rigid = RigidityMoments()
    moments, edges = FeatureMoments(), dataset.edges(Split.TRAIN, model.card.spec.cutoff)
    head, total = model.datasets.index(dataset.name), dataset.statistics.n_structures[Split.TRAIN]
    for first in range(0, total, _CHUNK):
        columns = dataset.columns(Split.TRAIN, np.arange(first, min(first + _CHUNK, total)))
        features = recorded_features(model.potential, InOrder(columns.numbers, moments.add))
        with features, recorded_last_layer(model.potential) as inputs:
            for place, batch in _batches(model, columns, head, spec.batch_size, edges, neighbor_list, first):
                task.check()
                task.report_progress(dataset=dataset.name, done=first + place.start, total=total)
                model.potential.head_values(batch.to(device))
                while inputs:
                    rigid.add(pooled(inputs.pop(), batch.natoms.numpy()))
    found = moments.domain()
    return _Trained(moments, rigid, None if found is None else replace(found, rigidity=rigid.whiten()))


@dataclass(frozen=True)
class _SplitToPredict:
    """Structures to predict. Those of the training split are measured by the rest of it."""

    name: str  # of the dataset or test set
    split: Split
    columns: Columns
    edges: StoredEdges | None


def _splits(dataset: Dataset, spec: PredictSpec, cutoff: float) -> Iterator[_SplitToPredict]:
    """Yield a sample of the training split, then validation and test, then the test sets of a dataset."""
    sample = training_sample(dataset)
    if len(sample):
        yield _SplitToPredict(dataset.name, Split.TRAIN, sample, None)
    sets = [(Dataset.open(Path(t.path)), Split.TEST) for t in spec.test_sets if t.dataset == dataset.name]
    for structures, split in [*((dataset, split) for split in SPLITS), *sets]:
        yield _SplitToPredict(structures.name, split, structures.columns(split), structures.edges(split, cutoff))


def _predicted(
    model: TrainedModel,
    trained: _Trained,
    part: _SplitToPredict,
    dataset: str,
    predicting: Callable[[Columns, StoredEdges | None, dict[str, Any]], dict[str, NDArray[np.float64]]],
) -> dict[str, NDArray[np.generic]]:
    """Return the arrays of structures, with their distances to training and the rigidity where there are any."""
    columns, domain, spreads = part.columns, trained.domain, dict[str, Any]()
    with recorded_features(model.potential) as features, recorded_last_layer(model.potential) as inputs:
        predicted = predicting(columns, part.edges, spreads)
    arrays = _arrays(model, columns, dataset, predicted)
    arrays |= {spread_key(name): spread for name, spread in spreads.items()}
    if domain is None:
        return arrays
    of_atoms = np.concatenate(features) if features else np.zeros((0, domain.mean.shape[1]))
    whitened = domain.whitened(columns.numbers.astype(np.int64), of_atoms)
    arrays[DISTANCE_KEY] = np.linalg.norm(whitened, axis=1)
    if part.split is Split.TRAIN:
        groups = np.repeat(columns.group, columns.natoms)
        arrays[DISTANCE_KEY] = left_out_distances(trained.moments, columns.numbers, groups, of_atoms)
    if len(columns):
        arrays[POOLED_KEY] = pooled(whitened, columns.natoms).astype(np.float32)
    if domain.rigidity is not None and inputs:
        found = rigidity(domain.rigidity, pooled(np.concatenate(inputs), columns.natoms))
        arrays[RIGIDITY_KEY] = trained.rigid.left_out(found) if part.split is Split.TRAIN else found
    return arrays


def predict(spec: PredictSpec, task: Task) -> PredictResult:
    """Predict splits and test sets of each dataset, with distances to training, and publish them."""
    begun, graphs = time.monotonic(), 0
    torch.set_num_threads(spec.threads)
    device = torch_device(spec.device)
    model = load_model(Path(spec.checkpoint))
    model.potential.to(device)
    neighbor_list = neighbor_list_on(device)
    output = Path(spec.output)
    with publishing(output, PRODUCER, {"member": spec.member}) as folder:
        for ref in spec.datasets:
            dataset = Dataset.open(Path(ref.path))

            def values(
                columns: Columns, edges: StoredEdges | None, spreads: dict[str, Any], name: str = ref.name
            ) -> dict[str, Any]:
                return predict_columns(
                    model, columns, name, spec.batch_size, task, device, edges, neighbor_list, spreads
                )

            trained = _trained(model, dataset, spec, task, neighbor_list)
            if trained.domain is not None:
                with storage_errors(folder):
                    np.savez(domain_file(folder, ref.name), **trained.domain.arrays())  # type: ignore[arg-type]
            for part in _splits(dataset, spec, model.card.spec.cutoff):
                graphs += len(part.columns)
                arrays = _predicted(model, trained, part, ref.name, values)
                path = predictions_file(folder, part.name, part.split)
                with storage_errors(path):
                    np.savez(path, **arrays)  # type: ignore[arg-type]
    seconds = time.monotonic() - begun
    return PredictResult(str(output), read_manifest(output).digest, seconds, graphs / max(seconds, 1e-9))


if __name__ == "__main__":
    sys.exit(run_program(PredictSpec, predict))
