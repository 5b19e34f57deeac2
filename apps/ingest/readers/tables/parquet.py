"""Tables of structures in Parquet, as ColabFit publishes its data sets: https://materials.colabfit.org.

Columns are those of the reader json-table (``atomic_numbers``, ``positions``, ``cell``, ``pbc``, ``energy``,
``atomic_forces``, or their other names). Rows are read batch by batch. Needs pyarrow, which is not a dependency.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from importlib import import_module
from typing import Any

from gfm_pipeline.apps.ingest.files.archive_members import InputFile
from gfm_pipeline.apps.ingest.files.file_reader import FileReader, Frame, Parse
from gfm_pipeline.apps.ingest.readers.tables.json_table import frame_of_row
from gfm_pipeline.core.contracts.options import ParquetOptions
from gfm_pipeline.core.errors import DataError

_ROWS = 256  # read at a time


class ParquetReader(FileReader):
    """Reads one record per row; every other column is metadata."""

    def frames(self, part: InputFile, options: ParquetOptions) -> Iterator[Parse]:  # noqa: ARG002
        """Yield the rows."""
        with _opened(part) as file:
            for batch in file.iter_batches(batch_size=_ROWS):
                for number in range(batch.num_rows):
                    yield partial(_row, batch, number)

    def length(self, part: InputFile, options: ParquetOptions) -> int | None:  # noqa: ARG002
        """Return the number of rows, which the end of the file says."""
        with _opened(part) as file:
            return int(file.metadata.num_rows)


def _opened(part: InputFile) -> Any:
    try:
        parquet: Any = import_module("pyarrow.parquet")
    except ModuleNotFoundError as error:
        raise DataError(
            "Parquet is read with pyarrow, which is not installed.", 'Run: pip install "gfm-pipeline[parquet]".'
        ) from error
    return parquet.ParquetFile(part.path())


def _row(batch: Any, number: int) -> Frame:
    (row,) = batch.slice(number, 1).to_pylist()
    return frame_of_row(row)
