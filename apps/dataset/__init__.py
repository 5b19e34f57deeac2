"""The ADIOS2 dataset: columns on disk in HydraGNN's layout, graphs in memory, batches for models.

Names are imported when first used: code that needs neighbour lists only does not wait for torch, and a
generator can set the number of OpenMP threads before any library reads it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gfm_pipeline.apps.dataset.batching.collate import collate, collate_batches
    from gfm_pipeline.apps.dataset.batching.graph_table import GraphTable
    from gfm_pipeline.apps.dataset.neighbors.neighbor_list import neighbour_list
    from gfm_pipeline.apps.dataset.store.bp import BpFile, read_columns
    from gfm_pipeline.apps.dataset.store.columns import Columns
    from gfm_pipeline.apps.dataset.store.dataset import STATISTICS_FILE, Dataset
    from gfm_pipeline.apps.dataset.store.write import write_bp
    from gfm_pipeline.core.contracts.data import Split
    from gfm_pipeline.core.contracts.dataset_statistics import DatasetStatistics

_HOME = {
    "STATISTICS_FILE": "gfm_pipeline.apps.dataset.store.dataset",
    "BpFile": "gfm_pipeline.apps.dataset.store.bp",
    "Columns": "gfm_pipeline.apps.dataset.store.columns",
    "Dataset": "gfm_pipeline.apps.dataset.store.dataset",
    "DatasetStatistics": "gfm_pipeline.core.contracts.data",
    "GraphTable": "gfm_pipeline.apps.dataset.batching.graph_table",
    "Split": "gfm_pipeline.core.contracts.data",
    "collate": "gfm_pipeline.apps.dataset.batching.collate",
    "collate_batches": "gfm_pipeline.apps.dataset.batching.collate",
    "neighbour_list": "gfm_pipeline.apps.dataset.neighbors.neighbor_list",
    "read_columns": "gfm_pipeline.apps.dataset.store.bp",
    "write_bp": "gfm_pipeline.apps.dataset.store.write",
}

__all__ = [
    "STATISTICS_FILE",
    "BpFile",
    "Columns",
    "Dataset",
    "DatasetStatistics",
    "GraphTable",
    "Split",
    "collate",
    "collate_batches",
    "neighbour_list",
    "read_columns",
    "write_bp",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
