"""Pretends `ingest.assemble`: the shards' lines in one file."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from gfm_pipeline.apps.runtime.program import Task, run_program
from gfm_pipeline.core.contracts.data import AssembleResult, AssembleSpec
from gfm_pipeline.core.contracts.dataset_statistics import DatasetStatistics
from gfm_pipeline.core.publish import publishing, read_manifest, verify


def assemble(spec: AssembleSpec, task: Task) -> AssembleResult:
    output = Path(spec.output)
    with publishing(output, "pretend.assemble") as folder:
        for shard in spec.shards:
            task.check()
            verify(Path(shard), digests=True)
            with open(folder / "dataset.txt", "a") as stream:
                stream.write((Path(shard) / "records.txt").read_text())
            time.sleep(0.03)
        count = len((folder / "dataset.txt").read_text().splitlines())
    splits = {"trainset": count - 8, "valset": 4, "testset": 4}
    null = dict.fromkeys(splits, 1.0)
    statistics = DatasetStatistics(
        name=spec.source.name,
        n_structures=splits,
        n_atoms={k: 3 * v for k, v in splits.items()},
        n_groups=splits,
        elements=("H", "O"),
        reference={"H": -1.0, "O": -2.0},
        reference_rank=2,
        reference_from="fit",
        force_rms=1.0,
        energy_std=1.0,
        null_energy_mae=null,
        null_force_mae=null,
        max_atoms=3,
        n_quarantined=0,
        reasons={},
    )
    return AssembleResult(str(output), read_manifest(output).digest, statistics, 0.0)


if __name__ == "__main__":
    sys.exit(run_program(AssembleSpec, assemble))
