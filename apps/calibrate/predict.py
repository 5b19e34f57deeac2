"""``python -m gfm_pipeline.apps.calibrate.predict SPEC.json``: one member's predictions of validation and test."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gfm_pipeline.apps.calibrate.aggregate import (
    DISTANCE_KEY,
    domain_file,
    label_key,
    predictions_file,
    reference_key,
    values_key,
)
from gfm_pipeline.apps.calibrate.domain import SAMPLE, Distances, Domain, recorded_features
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
) -> dict[str, NDArray[np.float64]]:
    """Return the values of each target of the model, of structures [G, ...] or atoms [N, ...].

    References are added in float64: energies are total energies.

    The model's weights must be on ``device``. ``edges`` are those of ``columns``, stored within the model's cutoff or
    more; None: they are listed, by ``neighbor_list``.

    Raises
    ------
    DataError
        When the model has no head for ``dataset``, or an element has no reference energy.
    StopRequested
        Between two batches, when ``task`` was asked to stop.
    """
    if dataset not in model.datasets:
        raise DataError(f"The model has no head for dataset {dataset!r}, only {', '.join(model.datasets)}.")
    head, references = model.datasets.index(dataset), model.card.references_of(dataset)
    rows = {Level.GRAPH: len(columns), Level.ATOM: len(columns.numbers)}
    found = {target.name: np.zeros((rows[target.level], *target.shape)) for target in model.targets}
    for first in range(0, len(columns), _CHUNK):
        chosen = np.arange(first, min(first + _CHUNK, len(columns)))
        part, stored = columns.take(chosen), None if edges is None else edges.read(chosen)
        table = GraphTable.build(part, model.card.spec.cutoff, head, references, stored, neighbor_list)
        for start in range(0, len(part), batch_size):
            if task is not None:
                task.check()
                task.report_progress(dataset=dataset, done=first + start, total=len(columns))
            graphs = np.arange(start, min(start + batch_size, len(part)))
            out = model.potential(collate([table], np.zeros_like(graphs), graphs).to(device))
            ends = first + graphs[0], first + graphs[-1] + 1
            places = {Level.GRAPH: slice(*ends), Level.ATOM: slice(*columns.offsets[list(ends)])}
            for target in model.targets:
                found[target.name][places[target.level]] = out.values[target.name].cpu().double().numpy()
    for target in model.targets:
        if reference := references.get(target.name):
            found[target.name] += reference_values(columns, reference, target.name, target.level)
    return found


def _arrays(
    model: TrainedModel, columns: Columns, dataset: str, values: Mapping[str, NDArray[np.float64]]
) -> dict[str, NDArray[np.generic]]:
    """Return what is published of one split: predictions and labels of each target, and what figures need."""
    labels = {**columns.graph_labels, **columns.atom_labels}
    found: dict[str, NDArray[np.generic]] = {"natoms": columns.natoms, "group": columns.group}
    for target in model.targets:
        value = values[target.name]
        label = labels.get(target.name)
        found[values_key(target.name)] = value
        found[label_key(target.name)] = np.full_like(value, np.nan) if label is None else label.astype(np.float64)
        if target.reference is Reference.ELEMENTS and target.level is Level.GRAPH:
            reference = model.card.references_of(dataset)[target.name]
            found[reference_key(target.name)] = reference_values(columns, reference, target.name, target.level)
    return found


def predict(spec: PredictSpec, task: Task) -> PredictResult:
    """Predict the validation and test split of each dataset, with distances to the training split, and publish them."""
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

            def values(columns: Columns, edges: StoredEdges | None, name: str = ref.name) -> dict[str, Any]:
                return predict_columns(model, columns, name, spec.batch_size, task, device, edges, neighbor_list)

            first = np.arange(min(SAMPLE, dataset.statistics.n_structures[Split.TRAIN]))  # ingest shuffles
            columns = dataset.columns(Split.TRAIN, first)
            with recorded_features(model.potential) as features:
                values(columns, None)
            domain = Domain.fit(columns.numbers.astype(np.int64), np.concatenate(features))
            with storage_errors(folder):
                np.savez(domain_file(folder, ref.name), **domain.arrays())  # type: ignore[arg-type]
            for split in SPLITS:
                columns, edges = dataset.columns(split), dataset.edges(split, model.card.spec.cutoff)
                with recorded_features(model.potential, Distances(domain, columns.numbers)) as distances:
                    predicted = values(columns, edges)
                graphs += len(columns)
                arrays = _arrays(model, columns, ref.name, predicted)
                arrays[DISTANCE_KEY] = np.concatenate(distances) if distances else np.zeros(0)
                path = predictions_file(folder, ref.name, split)
                with storage_errors(path):
                    np.savez(path, **arrays)  # type: ignore[arg-type]
    seconds = time.monotonic() - begun
    return PredictResult(str(output), read_manifest(output).digest, seconds, graphs / max(seconds, 1e-9))


if __name__ == "__main__":
    sys.exit(run_program(PredictSpec, predict))
