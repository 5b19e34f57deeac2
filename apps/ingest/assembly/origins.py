"""The files and group names of a dataset's records, for people who examine it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gfm_pipeline.apps.ingest.assembly.plan import AssemblyPlan
from gfm_pipeline.apps.ingest.assembly.shard import MEMBERS
from gfm_pipeline.apps.ingest.checks.record_scan import place
from gfm_pipeline.core.contracts.data import SourceSettings
from gfm_pipeline.core.contracts.layout import Origins

MOST = 10_000  # files, and groups: readers load the whole manifest


class GroupNames:
    """Collects the names of groups as records pass by, if they are few and not blocks or structures."""

    def __init__(self, plan: AssemblyPlan) -> None:
        named = plan.grouping.block is None and not plan.grouping.structures
        self._wanted = named and plan.splits.known is not None and sum(plan.groups.values()) <= MOST
        self._names: dict[int, str] = {}

    def add(self, numbers: NDArray[np.int64], names: NDArray[np.str_]) -> None:
        """Add the group of each record [G]: the number in the dataset, and the name."""
        if self._wanted:
            found, first = np.unique(numbers, return_index=True)
            self._names.update(zip(found.tolist(), names[first].tolist(), strict=True))

    def in_order(self) -> tuple[str, ...]:
        """Return the names of the groups 0, 1, ...; nothing if one is missing."""
        names = [self._names.get(number) for number in range(len(self._names))]
        return tuple(name for name in names if name is not None) if None not in names else ()


def origins(source: SourceSettings, plan: AssemblyPlan, names: GroupNames) -> Origins | None:
    """Return the origins of records; None for more than `MOST` files, which no manifest lists."""
    files = plan.grouping.files.tolist()
    if len(files) > MOST:
        return None
    places = (place(source, file // MEMBERS, file % MEMBERS) for file in files)
    return Origins(tuple(Path(text).name for text in places), tuple(plan.grouping.starts.tolist()), names.in_order())
