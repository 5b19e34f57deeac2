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

MOST = 10_000  # files, groups, and runs of one kind: readers load the whole manifest
MOST_TESTED = 1_000_000  # test structures whose kinds are held in memory


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


class ConfigTypes:
    """Collects the kinds of configurations that test structures state, for runs of equal ones in the source."""

    def __init__(self) -> None:
        self._places: list[NDArray[np.int64]] = []
        self._names: list[NDArray[np.str_]] = []
        self._count = 0

    def add(self, places: NDArray[np.int64], names: NDArray[np.str_]) -> None:
        """Add records [G] by their number in the source."""
        self._count += len(places)
        if self._count <= MOST_TESTED:
            self._places.append(places)
            self._names.append(names)

    def in_order(self) -> tuple[tuple[int, str], ...]:
        """Return the first number and the name of each run; nothing if no record states a kind, or for many runs."""
        if not 0 < self._count <= MOST_TESTED:
            return ()
        places, names = np.concatenate(self._places), np.concatenate(self._names)
        order = np.argsort(places, kind="stable")
        places, names = places[order], names[order]
        first = np.flatnonzero(np.append(True, names[1:] != names[:-1]))
        if len(first) > MOST or not np.any(names != ""):
            return ()
        return tuple(zip(places[first].tolist(), names[first].tolist(), strict=True))


def origins(source: SourceSettings, plan: AssemblyPlan, names: GroupNames, kinds: ConfigTypes) -> Origins | None:
    """Return the origins of records; None for more than `MOST` files, which no manifest lists."""
    files = plan.grouping.files.tolist()
    if len(files) > MOST:
        return None
    places = (place(source, file // MEMBERS, file % MEMBERS) for file in files)
    starts = tuple(plan.grouping.starts.tolist())
    return Origins(tuple(Path(text).name for text in places), starts, names.in_order(), kinds.in_order())
