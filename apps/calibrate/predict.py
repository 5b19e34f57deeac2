"""``python -m gfm_pipeline.apps.calibrate.predict SPEC.json``: one member's predictions of validation and test."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from ase.data import chemical_symbols
from numpy.typing import NDArray

from gfm_pipeline.apps.calibrate.aggregate import predictions_file
from gfm_pipeline.apps.dataset import Columns, Dataset, GraphTable, collate
from gfm_pipeline.apps.dataset.neighbors.batched import neighbor_list_on
from gfm_pipeline.apps.dataset.neighbors.edges import NeighborListFn, build_edges
from gfm_pipeline.apps.dataset.store.edge_files import StoredEdges
from gfm_pipeline.apps.runtime.program import Task, run_program
from gfm_pipeline.apps.train.checkpoint import TrainedModel, load_model
from gfm_pipeline.apps.train.device import CPU, torch_device
from gfm_pipeline.core.contracts.data import Split
from gfm_pipeline.core.contracts.evaluation import PredictResult, PredictSpec
from gfm_pipeline.core.errors import DataError
from gfm_pipeline.core.publish import publishing, read_manifest, storage_errors

PRODUCER = "gfm_pipeline.apps.calibrate.predict 1"
SPLITS = (Split.VALIDATION, Split.TEST)
_CHUNK = 2048  # structures whose edges are in memory at a time


def reference_energies(columns: Columns, reference: Mapping[str, float]) -> NDArray[np.float64]:
    """Return the sum of reference energies of each structure [G], eV."""
    present, composition = columns.composition()
    energies = composition @ np.array([reference[chemical_symbols[number]] for number in present])
    return np.asarray(energies, dtype=np.float64)


def predict_columns(
    model: TrainedModel,
    columns: Columns,
    dataset: str,
    batch_size: int,
    task: Task | None = None,
    device: torch.device = CPU,
    edges: StoredEdges | None = None,
    neighbor_list: NeighborListFn = build_edges,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return total energies [G] (eV, references added in float64) and forces [N, 3] (eV/Angstrom).

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
    head, reference = model.datasets.index(dataset), model.references[dataset]
    energy, forces = np.zeros(len(columns)), np.zeros((int(columns.natoms.sum()), 3))
    for first in range(0, len(columns), _CHUNK):
        chosen = np.arange(first, min(first + _CHUNK, len(columns)))
        part, stored = columns.take(chosen), None if edges is None else edges.read(chosen)
        table = GraphTable.build(
            part, model.card.spec.cutoff, head, model.card.references_of(dataset), stored, neighbor_list
        )
        for start in range(0, len(part), batch_size):
            if task is not None:
                task.check()
                task.progress(dataset=dataset, done=first + start, total=len(columns))
            graphs = np.arange(start, min(start + batch_size, len(part)))
            out = model.potential(collate([table], np.zeros_like(graphs), graphs).to(device))
            atoms = columns.offsets[first + graphs[0]], columns.offsets[first + graphs[-1] + 1]
            energy[first + graphs] = out.energy.cpu().double().numpy()
            forces[atoms[0] : atoms[1]] = out.forces.cpu().double().numpy()
    return energy + reference_energies(columns, reference), forces


def predict(spec: PredictSpec, task: Task) -> PredictResult:
    """Predict every dataset's validation and test split and publish the arrays."""
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
            for split in SPLITS:
                columns = dataset.columns(split)
                edges = dataset.edges(split, model.card.spec.cutoff)
                energy, forces = predict_columns(
                    model, columns, ref.name, spec.batch_size, task, device, edges, neighbor_list
                )
                graphs += len(columns)
                path = predictions_file(folder, ref.name, split)
                with storage_errors(path):
                    np.savez(
                        path,
                        energy=energy,
                        forces=forces,
                        natoms=columns.natoms,
                        group=columns.group,
                        energy_label=columns.energy,
                        forces_label=columns.forces.astype(np.float64),
                        energy_reference=reference_energies(columns, model.references[ref.name]),
                    )
    seconds = time.monotonic() - begun
    return PredictResult(str(output), read_manifest(output).digest, seconds, graphs / max(seconds, 1e-9))


if __name__ == "__main__":
    sys.exit(run_program(PredictSpec, predict))
