"""A published dataset folder: BP files, ``statistics.json`` and the manifest that vouches for them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gfm_pipeline.apps.contracts.data import DatasetStatistics, Split
from gfm_pipeline.apps.contracts.layout import LAYOUT_FILE, Layout
from gfm_pipeline.apps.dataset.bp import BpFile, read_columns
from gfm_pipeline.apps.dataset.columns import Columns
from gfm_pipeline.common.errors import IntegrityError
from gfm_pipeline.common.publish import verify
from gfm_pipeline.common.records import read_record

STATISTICS_FILE = "statistics.json"


@dataclass(frozen=True)
class Dataset:
    """A dataset that was checked against its manifest.

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
    """

    path: Path
    digest: str
    statistics: DatasetStatistics
    files: tuple[str, ...]

    @classmethod
    def open(cls, path: Path, *, digests: bool = False) -> Dataset:
        """Check ``path`` against its manifest (sizes; SHA-256 too when ``digests``) and read the statistics.

        Raises
        ------
        IntegrityError
            When a file is missing, damaged, or the folder was never finished. ADIOS2 opens nothing before.
        """
        manifest = verify(path, digests=digests)
        if STATISTICS_FILE not in manifest.files:
            raise IntegrityError(f"{path} is not a dataset: its manifest lists no {STATISTICS_FILE}.")
        statistics = read_record(DatasetStatistics, path / STATISTICS_FILE)
        files: tuple[str, ...] = (f"{statistics.name}.bp",)  # datasets from before there were shards have no layout
        if LAYOUT_FILE in manifest.files:
            files = tuple(shard.file for shard in read_record(Layout, path / LAYOUT_FILE).files)
        for file in files:
            if f"{file}/md.idx" not in manifest.files:
                raise IntegrityError(f"{path} is not a dataset: its manifest lists no {file}.")
        return cls(path, manifest.digest, statistics, files)

    @property
    def name(self) -> str:
        """The dataset's name, which is its branch in a model."""
        return self.statistics.name

    def columns(self, split: Split) -> Columns:
        """Read one split into memory.

        Raises
        ------
        IntegrityError
            When the file is not what its statistics say.
        """
        parts = []
        for name in self.files:
            with BpFile(self.path / name) as file:
                if str(split) in file.labels():
                    parts.append(read_columns(file, split))
        if not parts:
            raise IntegrityError(f"{self.path} holds no structures in {split}.")
        columns = Columns.concatenate(parts) if len(parts) > 1 else parts[0]
        if len(columns) != self.statistics.n_structures[split]:
            raise IntegrityError(
                f"{self.path} holds {len(columns)} structures in {split}, "
                f"its statistics say {self.statistics.n_structures[split]}."
            )
        return columns
