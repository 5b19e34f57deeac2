"""A published dataset folder: BP files, ``statistics.json`` and the manifest that vouches for them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gfm_pipeline.apps.dataset.store.bp import BpFile, read_columns
from gfm_pipeline.apps.dataset.store.columns import Columns
from gfm_pipeline.apps.dataset.store.edge_files import StoredEdges
from gfm_pipeline.apps.dataset.store.index import GraphIndex, read_index
from gfm_pipeline.apps.dataset.store.rows import RowReader
from gfm_pipeline.core.contracts.data import Split
from gfm_pipeline.core.contracts.dataset_statistics import DatasetStatistics
from gfm_pipeline.core.contracts.layout import CHUNK, LAYOUT_FILE, DatasetLayout
from gfm_pipeline.core.errors import DataError, IntegrityError
from gfm_pipeline.core.publish import verify
from gfm_pipeline.core.records import read_record

if TYPE_CHECKING:
    from gfm_pipeline.apps.dataset.pyg import PygSplit

STATISTICS_FILE = "statistics.json"


@dataclass(frozen=True)
class Dataset:
    """A dataset after a check against its manifest.

    Attributes
    ----------
    path
        The folder.
    digest
        SHA-256 over its content.
    statistics
        Counts, reference energies, scales.
    files
        Names of the BP files, in order; the structures of a split are those of the files end to end.
    layout
        Contents of each file; None for a dataset from before shards existed.
    """

    path: Path
    digest: str
    statistics: DatasetStatistics
    files: tuple[str, ...]
    layout: DatasetLayout | None = None

    @classmethod
    def open(cls, path: Path, *, digests: bool = False) -> Dataset:
        """Check ``path`` against its manifest (sizes; SHA-256 too when ``digests``) and read the statistics.

        Raises
        ------
        IntegrityError
            When a file is missing or damaged, or the folder was never finished. ADIOS2 opens no file before this check.
        """
        manifest = verify(path, digests=digests)
        if STATISTICS_FILE not in manifest.files:
            raise IntegrityError(f"{path} is not a dataset: its manifest lists no {STATISTICS_FILE}.")
        statistics = read_record(DatasetStatistics, path / STATISTICS_FILE)
        files: tuple[str, ...] = (f"{statistics.name}.bp",)  # datasets from before shards existed have no layout
        layout = None
        if LAYOUT_FILE in manifest.files:
            layout = read_record(DatasetLayout, path / LAYOUT_FILE)
            files = tuple(shard.file for shard in layout.files)
        for file in files:
            if f"{file}/md.idx" not in manifest.files:
                raise IntegrityError(f"{path} is not a dataset: its manifest lists no {file}.")
        return cls(path, manifest.digest, statistics, files, layout)

    @property
    def name(self) -> str:
        """The dataset's name, also the name of its branch in a model."""
        return self.statistics.name

    def rows(self, split: Split) -> RowReader:
        """Open one split for random access; the caller closes it.

        Raises
        ------
        IntegrityError
            When the files differ from the statistics.
        """
        n = self.statistics.n_structures[split]
        if self.layout is None:
            sizes, block = [n], CHUNK
        else:
            labels = [shard.labels.get(str(split)) for shard in self.layout.files]
            sizes, block = [0 if extent is None else extent.n_graphs for extent in labels], self.layout.chunk
        self._check(sum(sizes), split)
        return RowReader([self.path / name for name in self.files], sizes, split, block)

    def index(self, split: Split) -> GraphIndex | None:
        """Return the index of every structure of a split; None for a folder without index.

        Raises
        ------
        IntegrityError
            When the index differs from the statistics.
        """
        return read_index(self.path, split, self.statistics.n_structures[split], tuple(self.statistics.targets))

    def blocks(self, split: Split) -> Iterator[Columns]:
        """Yield a split block by block.

        Raises
        ------
        IntegrityError
            When a file differs from the layout.
        """
        with self.rows(split) as rows:
            for first in range(0, len(rows), rows.block):
                yield rows.read(np.arange(first, min(first + rows.block, len(rows))))

    def edges(self, split: Split, cutoff: float = 0.0) -> StoredEdges | None:
        """Return the stored edges of a split; None when they are missing or end below ``cutoff`` (Angstrom).

        Raises
        ------
        IntegrityError
            When the files differ from the layout.
        """
        layout = self.layout
        if layout is None or layout.edges is None or cutoff > layout.edges.cutoff:
            return None
        return StoredEdges(self.path, split, self.statistics.n_structures[split], layout.chunk, layout.edges)

    def columns(self, split: Split, graphs: NDArray[np.int64] | None = None) -> Columns:
        """Read one split into memory, or its ascending ``graphs``.

        Raises
        ------
        IntegrityError
            When the file differs from its statistics.
        """
        if graphs is not None:
            with self.rows(split) as rows:
                return rows.read(graphs)
        parts = []
        for name in self.files:
            with BpFile(self.path / name) as file:
                if str(split) in file.labels():
                    parts.append(read_columns(file, split))
        if not parts:
            raise IntegrityError(f"{self.path} holds no structures in {split}.")
        columns = Columns.concatenate(parts) if len(parts) > 1 else parts[0]
        self._check(len(columns), split)
        return columns

    def to_pyg(self, split: str, cutoff: float, transform: Any = None) -> PygSplit:
        """Return a split as a dataset of PyTorch Geometric, with edges within ``cutoff`` (Angstrom).

        Parameters
        ----------
        split
            ``train``, ``validation`` or ``test``.
        cutoff
            Edges join all pairs closer than this (Angstrom).
        transform
            Transform of PyTorch Geometric.

        Raises
        ------
        DataError
            When PyTorch Geometric is not installed, or no split has that name.
        """
        try:
            from gfm_pipeline.apps.dataset.pyg import to_pyg
        except ModuleNotFoundError as error:
            raise DataError(f"This needs the package {error.name}.", "Run: pip install 'gfm-pipeline[pyg]'") from error
        return to_pyg(self, split, cutoff, transform)

    def _check(self, n: int, split: Split) -> None:
        recorded = self.statistics.n_structures[split]
        if n != recorded:
            raise IntegrityError(f"{self.path} holds {n} structures in {split}, its statistics say {recorded}.")
