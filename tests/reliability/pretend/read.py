"""Pretends `ingest.read`: a shard of a few lines."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from gfm_pipeline.apps.runtime.program import Task, run_program
from gfm_pipeline.core.contracts.data import ReadShardResult, ReadShardSpec
from gfm_pipeline.core.publish import publishing, read_manifest
from gfm_pipeline.core.records import to_plain
from pretend import mix

RECORDS = 20


def read(spec: ReadShardSpec, task: Task) -> ReadShardResult:
    output = Path(spec.output)
    source = to_plain(spec.source) | {"files": []}
    with publishing(output, "pretend.read", {"source": spec.source.name}) as folder:
        lines = []
        for number in range(RECORDS):
            task.check()
            lines.append(mix(source, spec.shard, spec.seed, number))
            time.sleep(0.003)
        (folder / "records.txt").write_text("\n".join(lines) + "\n")
    return ReadShardResult(str(output), read_manifest(output).digest, RECORDS, 0, {}, (), 0.0)


if __name__ == "__main__":
    sys.exit(run_program(ReadShardSpec, read))
