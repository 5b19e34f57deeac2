"""Errors of a trained model on a fixed sample of the validation splits, stored with its checkpoint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save

from gfm_pipeline.apps.dataset import Dataset, GraphTable, collate
from gfm_pipeline.apps.dataset.batching.graph_source import read_table
from gfm_pipeline.apps.dataset.neighbors.batched import neighbor_list_on
from gfm_pipeline.apps.train.checkpoint import ModelCard
from gfm_pipeline.apps.train.validate import BATCH, subset
from gfm_pipeline.core.contracts.attempts.stored_errors import ATOMS, STRUCTURES, error_key, group_key
from gfm_pipeline.core.contracts.data import Split
from gfm_pipeline.core.contracts.targets import Level, Target
from gfm_pipeline.core.contracts.training import TrainSpec
from gfm_pipeline.models import Potential


def stored_errors(
    model: Potential, card: ModelCard, spec: TrainSpec, batch_size: int | None, device: torch.device
) -> bytes:
    """Return the content of a file of errors (`gfm_pipeline.core.contracts.attempts.stored_errors`).

    Parameters
    ----------
    model, card
        The averaged model, on ``device``, and its description.
    spec
        The training, with its datasets and its limit of validation structures.
    batch_size
        Largest number of structures in memory at a time; None: `BATCH`.
    device
        Device of the model.
    """
    arrays: dict[str, NDArray[np.generic]] = {}
    most = STRUCTURES if spec.validation_limit is None else min(STRUCTURES, spec.validation_limit)
    size = BATCH if batch_size is None else min(BATCH, batch_size)
    for number, ref in enumerate(spec.datasets):
        dataset = Dataset.open(Path(ref.path))
        chosen = subset(dataset.statistics.n_structures[Split.VALIDATION], most)
        references, cutoff = card.references_of(ref.name), card.spec.cutoff
        near = neighbor_list_on(device)
        table = read_table(dataset, Split.VALIDATION, cutoff, number, references, chosen, near)
        groups = dataset.columns(Split.VALIDATION, chosen).group
        for target, errors in _errors(model, table, size, device).items():
            of_row = groups if target.level is Level.GRAPH else np.repeat(groups, table.natoms)
            rows = np.flatnonzero(~np.isnan(errors).any(axis=1))  # rows without a label have no error
            if target.level is Level.ATOM and len(rows) > ATOMS:
                rows = np.sort(np.random.default_rng(0).permutation(rows)[:ATOMS])
            arrays[error_key(ref.name, target.name)] = np.ascontiguousarray(errors[rows])
            arrays[group_key(ref.name, target.name)] = np.ascontiguousarray(of_row[rows].astype(np.int64))
    return save(arrays)


def _errors(
    model: Potential, table: GraphTable, batch_size: int, device: torch.device
) -> dict[Target, NDArray[np.float32]]:
    """Return the errors of each labelled target [rows, components]; those of extensive values are per atom."""
    parts: dict[Target, list[NDArray[np.float32]]] = {target: [] for target in model.spec.targets}
    for start in range(0, len(table), batch_size):
        graphs = np.arange(start, min(start + batch_size, len(table)))
        batch = collate([table], np.zeros(len(graphs), dtype=np.int64), graphs).to(device, model.dtype)
        out = model(batch)
        for target, found in parts.items():
            label = batch.labels.get(target.name)
            if label is None:
                continue
            error = (out.values[target.name] - label).detach().double().view(len(label), -1)
            if target.per_atom:
                error = error / batch.natoms.double().view(-1, 1)
            found.append(error.float().cpu().numpy())
    return {target: np.concatenate(found) for target, found in parts.items() if found}
