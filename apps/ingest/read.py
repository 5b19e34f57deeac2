"""Program: read or generate one shard of a source (`ReadShardSpec` to `ReadShardResult`)."""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path

from gfm_pipeline.apps.contracts.data import BadRecord, ReadShardResult, ReadShardSpec
from gfm_pipeline.apps.contracts.readers import describe
from gfm_pipeline.apps.contracts.sources import block_size, check_units, parse_options
from gfm_pipeline.apps.ingest.clean import Conversion, clean
from gfm_pipeline.apps.ingest.records import Record
from gfm_pipeline.apps.ingest.registry import get_reader
from gfm_pipeline.apps.ingest.shard import pack, write_shard
from gfm_pipeline.apps.program import Task, run_program
from gfm_pipeline.common.errors import DataError
from gfm_pipeline.common.publish import publishing, read_manifest


def reason_name(reason: str) -> str:
    """Return the part of a reason that is the same for all its records."""
    return reason.split(":", 1)[0]


def count_reasons(bad: list[BadRecord]) -> dict[str, int]:
    """Return how often each reason occurs, most frequent first."""
    return dict(sorted(Counter(reason_name(b.reason) for b in bad).items(), key=lambda item: (-item[1], item[0])))


def _check(spec: ReadShardSpec) -> None:
    source = spec.source
    parse_options(source.reader, source.options)
    block_size(source.group_key)
    check_units(source)
    if not 0 <= spec.shard < source.shards:
        raise DataError(f"Source {source.name} has no shard {spec.shard}: it is read in {source.shards}.")
    if describe(source.reader).makes_data:
        return
    if not source.files:
        raise DataError(f"Source {source.name} names no files.", "Give paths that exist.")
    for file in source.files:
        if not Path(file).exists():
            raise DataError(f"File {file} of source {source.name} does not exist.", "Correct the path.")


def read_shard_program(spec: ReadShardSpec, task: Task) -> ReadShardResult:
    """Read, convert and check every record of the shard, and publish what is good and what is not.

    Raises
    ------
    DataError
        When the source cannot be read at all.
    StopRequested
        When the program is asked to stop; nothing is left behind.
    """
    started = time.monotonic()
    _check(spec)
    source = spec.source
    reader = get_reader(source.reader)
    conversion = Conversion.of(source)
    whole = reader.count(source)
    total = None if whole is None else len(range(spec.shard, whole, source.shards))
    good: list[Record] = []
    bad: list[BadRecord] = []
    for item in reader.read(source, spec.shard, source.shards, spec.seed):
        task.check()
        result = item if isinstance(item, BadRecord) else clean(item, source, conversion)
        if isinstance(result, BadRecord):
            bad.append(result)
        else:
            good.append(result)
        task.progress(done=len(good) + len(bad), total=total, quarantined=len(bad))
    output = Path(spec.output)
    with publishing(output, "ingest.read", {"source": source.name, "shard": spec.shard}) as folder:
        write_shard(folder, pack(good), bad)
    done = len(good) + len(bad)
    task.progress(force=True, done=done, total=done, quarantined=len(bad))
    return ReadShardResult(
        output=str(output),
        digest=read_manifest(output).digest,
        n_records=len(good),
        n_quarantined=len(bad),
        reasons=count_reasons(bad),
        converted=conversion.sentences + reader.converted(source),
        seconds=time.monotonic() - started,
    )


if __name__ == "__main__":
    sys.exit(run_program(ReadShardSpec, read_shard_program))
