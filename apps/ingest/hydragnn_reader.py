"""Existing ``.bp`` files in HydraGNN's layout as a source."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from gfm_pipeline.apps.contracts.data import BadRecord, SourceSettings, Split
from gfm_pipeline.apps.dataset.bp import BpFile, read_columns
from gfm_pipeline.apps.ingest.records import Record, deal, group_name, mine


class HydragnnReader:
    """Reads the three labels of each file one after the other."""

    def converted(self, source: SourceSettings) -> tuple[str, ...]:  # noqa: ARG002
        """Return none."""
        return ()

    def count(self, source: SourceSettings) -> int | None:
        """Return the number of samples the files declare."""
        total = 0
        for file in source.files:
            with BpFile(Path(file)) as bp:
                total += sum(int(np.asarray(bp.attribute(f"{label}/ndata"))[0]) for label in bp.labels())
        return total

    def read(self, source: SourceSettings, shard: int, n_shards: int, seed: int) -> Iterator[Record | BadRecord]:  # noqa: ARG002
        """Yield the records of one shard; ``seed`` is not used."""
        files, records = deal(source.files, shard, n_shards)
        for file_index, file in files:
            with BpFile(Path(file)) as bp:
                first = 0
                for label in bp.labels():
                    columns = read_columns(bp, Split(label))
                    has_groups = "group" in bp.keys(label)
                    key = source.group_key or ("group" if has_groups else None)
                    for g in range(len(columns)):
                        if not mine(first + g, records):
                            continue
                        atoms = slice(int(columns.offsets[g]), int(columns.offsets[g + 1]))
                        forces = columns.forces[atoms]
                        metadata = {"group": int(columns.group[g])} if has_groups else {}
                        yield Record(
                            numbers=columns.numbers[atoms],
                            pos=columns.pos[atoms].astype(np.float64),
                            forces=None if np.isnan(forces).all() else forces.astype(np.float64),
                            energy=float(columns.energy[g]),
                            cell=columns.cell[g].astype(np.float64),
                            pbc=columns.pbc[g],
                            group=group_name(key, metadata.get, columns.numbers[atoms], file, first + g),
                            file=file,
                            file_index=file_index,
                            index=first + g,
                        )
                    first += len(columns)
