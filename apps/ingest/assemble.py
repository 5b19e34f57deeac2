"""Program: join the shards of a source to one dataset (`AssembleSpec` to `AssembleResult`).

The program reads the source in several passes, one part of a shard at a time: repetitions and groups, references, the
window of energies, then the shuffle into buckets on disk, which it writes out in order. For a source of any size,
memory holds one part, one bucket and ADIOS2's buffers of the output file.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase.data import atomic_numbers, chemical_symbols
from numpy.typing import NDArray

from gfm_pipeline.apps.dataset.store.columns import Columns
from gfm_pipeline.apps.dataset.store.dataset import STATISTICS_FILE
from gfm_pipeline.apps.dataset.store.write import ATOM_BYTES, GRAPH_BYTES, label_bytes, label_type
from gfm_pipeline.apps.ingest.assembly.opened_source import OpenedSource, open_source
from gfm_pipeline.apps.ingest.assembly.origins import ConfigTypes, GroupNames, origins
from gfm_pipeline.apps.ingest.assembly.packed_records import Shard, select
from gfm_pipeline.apps.ingest.assembly.plan import AssemblyPlan, make_plan, named_by_records
from gfm_pipeline.apps.ingest.assembly.shard import write_quarantine
from gfm_pipeline.apps.ingest.assembly.shuffle import Buckets, CountedColumns, by_level, plan_files
from gfm_pipeline.apps.ingest.assembly.splits import SPLITS
from gfm_pipeline.apps.ingest.assembly.test_sets import LearnedData
from gfm_pipeline.apps.ingest.assembly.writer import DatasetWrite, finish, write_part
from gfm_pipeline.apps.ingest.checks.filters import Conversion
from gfm_pipeline.apps.ingest.checks.record_scan import (
    Fit,
    composition,
    keys,
)
from gfm_pipeline.apps.ingest.checks.shared_structures import Keys, shared_structure_warnings
from gfm_pipeline.apps.ingest.labels.inventory import merge, notes_of_keys
from gfm_pipeline.apps.ingest.mpi import MpiCommunicator
from gfm_pipeline.apps.ingest.read import read_warnings
from gfm_pipeline.apps.ingest.readers.registry import get_reader
from gfm_pipeline.apps.ingest.reasons import by_frequency
from gfm_pipeline.apps.ingest.summary.histograms import ingest_report
from gfm_pipeline.apps.ingest.summary.provenance import provenance
from gfm_pipeline.apps.ingest.summary.references import ReferenceEnergies
from gfm_pipeline.apps.ingest.summary.report import render
from gfm_pipeline.apps.ingest.summary.statistics import Totals
from gfm_pipeline.apps.ingest.summary.target_statistics import fit_targets
from gfm_pipeline.apps.runtime.program import Task, run_program
from gfm_pipeline.core.contracts.data import QUARANTINE_FILE, AcrossSources, AssembleResult, AssembleSpec, Split
from gfm_pipeline.core.contracts.dataset_statistics import DatasetStatistics
from gfm_pipeline.core.contracts.ingest.report import REPORT_DATA_FILE, REPORT_FILE
from gfm_pipeline.core.contracts.layout import LAYOUT_FILE
from gfm_pipeline.core.contracts.targets import Target
from gfm_pipeline.core.errors import DataError
from gfm_pipeline.core.publish import publishing, read_manifest, storage_errors, write_record
from gfm_pipeline.core.records import read_record, to_plain

_SCRATCH = ".scratch"


def _references(plan: AssemblyPlan, buckets: dict[Split, Buckets], learned: LearnedData | None) -> ReferenceEnergies:
    """Fit the references on the training split in its shuffled order, so that no bit depends on the shards.

    A test set has the references of the data that models ``learned`` from.
    """
    if learned is not None:
        return learned.references()
    fit = Fit(plan.present)
    for natoms, energy, numbers in buckets[Split.TRAIN].energies():
        fit.add(composition(numbers, natoms, plan.present), energy)
    used = {
        z for bucket in buckets.values() for _, _, numbers in bucket.energies() for z in np.unique(numbers).tolist()
    }
    return fit.solve(tuple(chemical_symbols[z] for z in sorted(used)), plan.isolated)


def _counted(
    part: Shard,
    group: NDArray[np.int64],
    origin: NDArray[np.int64],
    targets: tuple[Target, ...],
    weighted: tuple[str, ...],
) -> CountedColumns:
    labels = {t.name: part.labels_of(t).astype(label_type(t)) for t in targets}
    columns = Columns.build(
        numbers=part.numbers,
        pos=part.pos,
        forces=part.forces,
        energy=part.energy,
        cell=part.cell,
        pbc=part.pbc,
        natoms=part.natoms,
        group=group,
        origin=origin,
        graph_attr=np.stack([part.charge, part.spin], axis=1),
        weights={name: part.weights_of(name) for name in weighted},
        **by_level(targets, labels),
    )
    return CountedColumns(columns, part.degrees)


@dataclass(frozen=True)
class _Scattered:
    """The shuffled records, and their statistics; with several sources also keys for the comparison of sources."""

    buckets: dict[Split, Buckets]
    keys: Keys
    names: GroupNames
    kinds: ConfigTypes


def _scatter(source: OpenedSource, plan: AssemblyPlan, scratch: Path, task: Task) -> _Scattered:
    """Append every kept record to the bucket of its position in the shuffled order."""
    targets, weighted = source.spec.source.columns, source.weighted
    found, by_name = Keys.none(), named_by_records(source.spec.source)
    names, kinds = GroupNames(plan), ConfigTypes()
    buckets = {s: Buckets.sized(scratch, s, n, plan.atoms[s], targets, weighted) for s, n in plan.graphs.items()}
    done, total = 0, sum(plan.graphs.values())
    for rows in plan.parts:
        task.check()
        part = select(rows.load(), np.flatnonzero(plan.marks.kept(rows)))
        place = (part.file_index, part.member, part.index)
        group = plan.grouping.of_loaded(part)
        where, key = plan.splits.split(group), keys(source.spec.seed, part)
        if source.spec.compared:
            found = found.with_records(part, where, by_name)
        numbers = plan.splits.number(group)
        names.add(numbers, part.groups)
        origin, tested = plan.grouping.places(*place), where == SPLITS.index(Split.TEST)
        kinds.add(origin[tested], part.config_type[tested])
        records = _counted(part, numbers, origin, targets, weighted)
        for number, split in enumerate(SPLITS):
            mine = np.flatnonzero(where == number)
            if len(mine):
                buckets[split].add(key[mine], records.take(mine))
        done += len(part)
        task.report_progress(done=done, total=total, step="shuffle", quarantined=sum(source.reasons.values()))
    return _Scattered(buckets, found, names, kinds)


def _compare(spec: AssembleSpec, mine: Keys, folder: Path) -> tuple[str, ...]:
    """Store the keys of a source with its dataset if there are other sources; return warnings on shared structures."""
    if not spec.compared:
        return ()
    mine.write(folder)
    theirs = {read_manifest(Path(other)).meta.get("dataset", other): Keys.read(Path(other)) for other in spec.others}
    known = {name: keys for name, keys in theirs.items() if keys is not None}
    return shared_structure_warnings({**known, spec.source.name: mine}, spec.across is AcrossSources.TOGETHER)


def _beside_learned(source: OpenedSource, plan: AssemblyPlan, totals: Totals, task: Task) -> tuple[str, ...]:
    """Return the warnings of a test set beside the data that models learn from."""
    if source.learned is None:
        return ()
    return source.learned.warnings(plan.parts, plan.marks, source.spec.source, totals.main.energy_mean, task)


def _placing(
    source: OpenedSource, plan: AssemblyPlan, buckets: dict[Split, Buckets], folder: Path, scratch: Path
) -> tuple[DatasetWrite, Totals]:
    """Fit the references and divide the shuffled records over files."""
    spec, name = source.spec, source.spec.source.name
    targets = spec.source.columns
    of_graph, of_atom = label_bytes(targets, source.weighted)
    n_graphs, n_atoms = sum(plan.graphs.values()), sum(plan.atoms.values())
    size = n_graphs * (GRAPH_BYTES + of_graph) + n_atoms * (ATOM_BYTES + of_atom)
    chunk_atoms = {split: bucket.chunk_atoms() for split, bucket in buckets.items()}
    files = plan_files(name, chunk_atoms, max(1, -(-size // int(spec.shard_mb * 1e6))))
    references = _references(plan, buckets, source.learned)
    energies = {atomic_numbers[symbol]: energy for symbol, energy in references.energies.items()}
    within, described = spec.edges_within, (targets, source.weighted)
    work = DatasetWrite(folder, scratch, name, files, energies, buckets, plan.graphs, within, *described)
    if source.learned is not None:
        return work, Totals(references, source.learned.targets(targets))
    return work, Totals(references, fit_targets(targets, buckets[Split.TRAIN], plan.present))


def help_assemble(task: Task, ranks: MpiCommunicator) -> None:
    """Run the part of a rank other than 0: its share of the writing.

    Raises
    ------
    GFMError
        The error of this or another rank.
    """
    work: DatasetWrite = ranks.receive()
    ranks.allgather(lambda: write_part(work, None, task, ranks))


def assemble_program(spec: AssembleSpec, task: Task, ranks: MpiCommunicator | None = None) -> AssembleResult:
    """Split by group, fit the references on the training split, shuffle, and publish the dataset.

    Parameters
    ----------
    spec, task
        The request, and the attempt.
    ranks
        The processes that write together; the others run `help_assemble`. Default: this process alone.

    Raises
    ------
    DataError
        When too many records were set aside, no record is left, or three splits cannot be formed.
    IntegrityError
        When a shard is damaged.
    StopRequested
        On request to stop; no files are left behind.
    """
    ranks = MpiCommunicator() if ranks is None else ranks
    with ranks.broadcasting_errors():
        return _assemble(spec, task, ranks)


def _assemble(spec: AssembleSpec, task: Task, ranks: MpiCommunicator) -> AssembleResult:
    started = time.monotonic()
    source = open_source(spec, task)
    output, name = Path(spec.output), spec.source.name
    meta: dict[str, object] = {"dataset": name}
    with publishing(output, "ingest.assemble", meta) as folder:
        scratch = folder / _SCRATCH
        with storage_errors(scratch):
            scratch.mkdir()
        plan = make_plan(source, scratch, task)
        for split, n in plan.graphs.items():
            if not n and source.learned is not None:
                raise DataError(f"Test set {name} holds isolated atoms alone.", "Give it the structures to predict.")
            if not n:
                raise DataError(f"Split {split} of {name} is empty.", "Give it a larger fraction or more groups.")
        scattered = _scatter(source, plan, scratch, task)
        work, totals = _placing(source, plan, scattered.buckets, folder, scratch)
        ranks.broadcast(work)
        quarantined = sum(source.reasons.values())
        layout = finish(work, ranks.allgather(lambda: write_part(work, totals, task, ranks, quarantined)), totals)
        oddities: Counter[str] = Counter()
        for index in source.indexes:
            oddities.update(index.oddities)
        labels = merge(index.labels for index in source.indexes)
        warned = read_warnings(source.evidence, dict(oddities), labels, totals.energy_std())
        doubt = totals.references.sentence()
        warned = (
            *_beside_learned(source, plan, totals, task),
            *_compare(spec, scattered.keys, folder),
            *warned,
            *plan.warnings,
            *(() if doubt is None else (doubt,)),
        )
        shutil.rmtree(scratch)
        stats = totals.statistics(name, plan.groups, by_frequency(source.reasons), warned)
        stats = stats.with_attributes(spec.source.attributes)
        conversions = Conversion.of(spec.source).sentences + get_reader(spec.source.reader).converted(spec.source)
        conversions += plan.notes + notes_of_keys(labels)
        origin = provenance(spec, conversions, warned)
        meta["provenance"] = to_plain(origin)
        meta["content"] = layout.content
        if (places := origins(spec.source, plan, scattered.names, scattered.kinds)) is not None:
            meta["origins"] = to_plain(places)
        write_record(folder / LAYOUT_FILE, layout)
        write_record(folder / STATISTICS_FILE, stats)
        write_quarantine(folder / QUARANTINE_FILE, source.quarantine())
        found = ingest_report(totals, source.read, source.by_reason(), source.passed_over(), labels)
        write_record(folder / REPORT_DATA_FILE, found)
        with storage_errors(folder / REPORT_FILE):
            text = render(spec, stats, totals, found, origin, layout.edges)
            (folder / REPORT_FILE).write_text(text, encoding="utf-8")
    for sentence in warned:
        sys.stdout.write(f"warning: {name}: {sentence}\n")
    task.report_progress(force=True, done=len(spec.shards), total=len(spec.shards), quarantined=stats.n_quarantined)
    return AssembleResult(
        output=str(output),
        digest=read_manifest(output).digest,
        statistics=read_record(DatasetStatistics, output / STATISTICS_FILE),
        seconds=time.monotonic() - started,
    )


if __name__ == "__main__":
    sys.exit(run_program(AssembleSpec, assemble_program))
