"""Program: read or generate one shard of a source (`ReadShardSpec` to `ReadShardResult`)."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from gfm_pipeline.apps.ingest.assembly.shard import ShardWriter
from gfm_pipeline.apps.ingest.checks.filters import Conversion, clean
from gfm_pipeline.apps.ingest.checks.label_consistency import findings, warnings
from gfm_pipeline.apps.ingest.checks.label_evidence import Evidence
from gfm_pipeline.apps.ingest.files.isolation import isolated
from gfm_pipeline.apps.ingest.labels.inventory import label_key_sentences, notes_of_keys
from gfm_pipeline.apps.ingest.readers.registry import get_reader
from gfm_pipeline.apps.ingest.records import PassedOver
from gfm_pipeline.apps.runtime.program import Task, run_program
from gfm_pipeline.core.contracts.data import BadRecord, ReadShardResult, ReadShardSpec, SourceSettings
from gfm_pipeline.core.contracts.ingest.label_keys import LabelInventory
from gfm_pipeline.core.contracts.readers import describe
from gfm_pipeline.core.contracts.sources import block_size, check_units, parse_options
from gfm_pipeline.core.errors import DataError
from gfm_pipeline.core.publish import publishing, read_manifest


def check_source(source: SourceSettings) -> None:
    """Refuse a source that cannot be read at all.

    Raises
    ------
    DataError
        When it names no files, or one that does not exist.
    ConfigError
        When its options or its group key are wrong.
    """
    parse_options(source.reader, source.options)
    block_size(source.group_key)
    check_units(source)
    if describe(source.reader).makes_data:
        return
    if not source.files:
        raise DataError(f"Source {source.name} names no files.", "Give paths that exist.")
    for file in source.files:
        if not Path(file).exists():
            raise DataError(f"File {file} of source {source.name} does not exist.", "Correct the path.")


def read_warnings(
    evidence: Evidence, oddities: dict[str, int], labels: LabelInventory, energy_std: float | None = None
) -> tuple[str, ...]:
    """Return the warnings about records that were kept, and about labels, one sentence each."""
    odd = [f"{count} records have {what}: they are taken as not periodic." for what, count in oddities.items()]
    return (*warnings(findings(evidence, energy_std)), *odd, *label_key_sentences(labels))


def read_shard_program(spec: ReadShardSpec, task: Task) -> ReadShardResult:
    """Read, convert and check every record of the shard, and publish good and bad records.

    Memory holds one part of the shard, for shards of any size.

    Raises
    ------
    DataError
        When the source cannot be read at all.
    StopRequested
        On request to stop; no files are left behind.
    """
    started = time.monotonic()
    source = spec.source
    check_source(source)
    if not 0 <= spec.shard < source.shards:
        raise DataError(f"Source {source.name} has no shard {spec.shard}: it is read in {source.shards}.")
    reader = isolated(get_reader(source.reader), spec.limits, task.check)
    conversion = Conversion.of(source)
    whole = reader.count(source)
    total = None if whole is None else len(range(spec.shard, whole, source.shards))
    output = Path(spec.output)
    good = bad = 0
    with (
        publishing(output, "ingest.read", {"source": source.name, "shard": spec.shard}) as folder,
        ShardWriter(folder, source) as writer,
    ):
        for item in reader.read(source, spec.shard, source.shards, spec.seed):
            task.check()
            if isinstance(item, PassedOver):
                writer.pass_over(item)
                continue
            if not isinstance(item, BadRecord):
                writer.inspect(item)
            result = item if isinstance(item, BadRecord) else clean(item, source, conversion)
            if isinstance(result, BadRecord):
                writer.set_aside(result)
                bad += 1
            else:
                writer.add(result)
                good += 1
            task.report_progress(done=good + bad, total=total, quarantined=bad)
        index, evidence = writer.finish()
    warned = read_warnings(evidence, index.oddities, index.labels)
    for sentence in warned:
        sys.stdout.write(f"warning: {source.name}, shard {spec.shard}: {sentence}\n")
    if warned:
        task.report_progress(force=True, done=good + bad, total=good + bad, quarantined=bad, warnings=list(warned))
    task.report_progress(force=True, done=good + bad, total=good + bad, quarantined=bad)
    return ReadShardResult(
        output=str(output),
        digest=read_manifest(output).digest,
        n_records=good,
        n_quarantined=bad,
        reasons=index.reasons,
        converted=conversion.sentences + reader.converted(source) + notes_of_keys(index.labels),
        seconds=time.monotonic() - started,
        warnings=warned,
    )


if __name__ == "__main__":
    sys.exit(run_program(ReadShardSpec, read_shard_program))
