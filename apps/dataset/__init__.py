"""The ADIOS2 dataset: columns on disk in HydraGNN's layout, graphs in memory, batches for models."""

from gfm_pipeline.apps.contracts.data import DatasetStatistics, Split
from gfm_pipeline.apps.dataset.bp import BpFile, read_columns, write_bp
from gfm_pipeline.apps.dataset.columns import Columns
from gfm_pipeline.apps.dataset.dataset import STATISTICS_FILE, Dataset
from gfm_pipeline.apps.dataset.neighbours import neighbour_list
from gfm_pipeline.apps.dataset.table import GraphTable, collate

__all__ = [
    "STATISTICS_FILE",
    "BpFile",
    "Columns",
    "Dataset",
    "DatasetStatistics",
    "GraphTable",
    "Split",
    "collate",
    "neighbour_list",
    "read_columns",
    "write_bp",
]
