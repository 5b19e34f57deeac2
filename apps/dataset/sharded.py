"""One split of a dataset that is several BP files, as if it were one."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from gfm_pipeline.apps.contracts.data import Split
from gfm_pipeline.apps.dataset.bp import BpFile
from gfm_pipeline.apps.dataset.columns import Columns
from gfm_pipeline.apps.dataset.dataset import Dataset
from gfm_pipeline.apps.dataset.rows import Rows


class ShardedRows(AbstractContextManager["ShardedRows"]):
    """Reads structures of one split by their numbers, from whichever files hold them.

    Every file but the last holds whole blocks, so blocks are counted through all of them.

    Parameters
    ----------
    parts
        The files that hold some of the split, in order; closed by `close`.
    """

    def __init__(self, parts: Sequence[Rows]) -> None:
        self._parts = list(parts)
        self._ends = np.cumsum([len(part) for part in self._parts], dtype=np.int64)

    @classmethod
    def open(cls, dataset: Dataset, split: Split) -> ShardedRows:
        """Open the files of a checked dataset that hold some of ``split``."""
        parts = []
        for name in dataset.files:
            file = BpFile(dataset.path / name)
            if str(split) in file.labels():
                parts.append(Rows(file, split))
            else:
                file.close()
        return cls(parts)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    def block(self) -> int:
        """Structures of a block on disk."""
        return self._parts[0].block

    def read(self, graphs: NDArray[np.int64]) -> Columns:
        """Read ``graphs`` [n], which ascend without repetition.

        Raises
        ------
        IntegrityError
            When there is no such structure, or a file is damaged.
        """
        if not len(graphs):
            return self._parts[0].read(graphs)
        part = np.minimum(np.searchsorted(self._ends, graphs, side="right"), len(self._parts) - 1)
        found = []
        for number in np.unique(part).tolist():
            first = int(self._ends[number - 1]) if number else 0
            found.append(self._parts[number].read(graphs[part == number] - first))
        return Columns.concatenate(found) if len(found) > 1 else found[0]

    def close(self) -> None:
        """Close the files."""
        for part in self._parts:
            part.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
