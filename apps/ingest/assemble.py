"""Program: join the shards of a source to one dataset (`AssembleSpec` to `AssembleResult`)."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
from ase.data import atomic_numbers, chemical_symbols

from gfm_pipeline.apps.contracts.data import AssembleResult, AssembleSpec, BadRecord, DatasetStatistics, Split
from gfm_pipeline.apps.dataset.bp import write_bp
from gfm_pipeline.apps.dataset.columns import Columns
from gfm_pipeline.apps.dataset.dataset import STATISTICS_FILE
from gfm_pipeline.apps.ingest.clean import Conversion
from gfm_pipeline.apps.ingest.read import count_reasons
from gfm_pipeline.apps.ingest.references import fit_references, statistics
from gfm_pipeline.apps.ingest.registry import get_reader
from gfm_pipeline.apps.ingest.report import render
from gfm_pipeline.apps.ingest.shard import QUARANTINE_FILE, Shard, concatenate, read_shard, write_quarantine
from gfm_pipeline.apps.ingest.splits import split_by_group
from gfm_pipeline.apps.program import Task, run_program
from gfm_pipeline.common.errors import DataError
from gfm_pipeline.common.publish import publishing, read_manifest, storage_errors, write_record
from gfm_pipeline.common.records import read_record

REPORT_FILE = "ingest_report.md"


def _check_quarantine(spec: AssembleSpec, n_good: int, bad: list[BadRecord]) -> None:
    total = n_good + len(bad)
    table = ", ".join(f"{n} x {reason}" for reason, n in count_reasons(bad).items())
    example = f" First: {bad[0].file}, record {bad[0].index}: {bad[0].reason}." if bad else ""
    if n_good == 0:
        said = f"all {total} were set aside ({table}).{example}" if total else "it is empty."
        raise DataError(f"Source {spec.source.name} has no usable record: {said}", "Correct the source or its keys.")
    if len(bad) > spec.max_quarantined * total:
        raise DataError(
            f"Source {spec.source.name}: {len(bad)} of {total} records were set aside, more than the "
            f"{100 * spec.max_quarantined:g} % allowed ({table}).{example}",
            "Correct the source, or raise max_quarantined if they may be left out.",
        )


def _columns(shard: Shard, group: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Columns:
    return Columns.build(
        numbers=shard.numbers,
        pos=shard.pos,
        forces=shard.forces,
        energy=shard.energy,
        cell=shard.cell,
        pbc=shard.pbc,
        natoms=shard.natoms,
        group=group,
    )


def assemble_program(spec: AssembleSpec, task: Task) -> AssembleResult:
    """Split by group, fit the references on the training split, and publish the dataset.

    Raises
    ------
    DataError
        When too many records were set aside, none is left, or three splits cannot be formed.
    IntegrityError
        When a shard is damaged.
    StopRequested
        When the program is asked to stop; nothing is left behind.
    """
    started = time.monotonic()
    source = spec.source
    shards: list[Shard] = []
    bad: list[BadRecord] = []
    for path in spec.shards:
        task.check()
        shard, set_aside = read_shard(Path(path))
        shards.append(shard)
        bad.extend(set_aside)
        task.progress(done=len(shards), total=len(spec.shards), quarantined=len(bad))
    bad.sort(key=lambda b: (b.file, b.index))
    _check_quarantine(spec, sum(map(len, shards)), bad)
    whole = concatenate(shards)
    _, group = np.unique(whole.groups, return_inverse=True)
    columns = _columns(whole, group.astype(np.int64))
    assigned = split_by_group(columns.group, spec.validation, spec.test, spec.seed, source.name)
    splits = {split: columns.take(records) for split, records in assigned.records.items()}
    elements = tuple(chemical_symbols[z] for z in np.unique(columns.numbers).tolist())
    references = fit_references(splits[Split.TRAIN], elements, source.isolated_energies)
    stats = statistics(source.name, splits, assigned.n_groups, references, len(bad), count_reasons(bad))
    notes = Conversion.of(source).sentences + get_reader(source.reader).converted(source)
    task.check()
    output = Path(spec.output)
    with publishing(output, "ingest.assemble", {"dataset": source.name}) as folder:
        write_bp(
            folder / f"{source.name}.bp",
            source.name,
            splits,
            {atomic_numbers[symbol]: energy for symbol, energy in references.energies.items()},
        )
        write_record(folder / STATISTICS_FILE, stats)
        write_quarantine(folder / QUARANTINE_FILE, bad)
        with storage_errors(folder / REPORT_FILE):
            (folder / REPORT_FILE).write_text(render(spec, stats, splits, notes), encoding="utf-8")
    task.progress(force=True, done=len(shards), total=len(spec.shards), quarantined=len(bad))
    return AssembleResult(
        output=str(output),
        digest=read_manifest(output).digest,
        statistics=read_record(DatasetStatistics, output / STATISTICS_FILE),
        seconds=time.monotonic() - started,
    )


if __name__ == "__main__":
    sys.exit(run_program(AssembleSpec, assemble_program))
