"""Program: join the shards of a source to one dataset (`AssembleSpec` to `AssembleResult`).

The source is read in several passes, one part of a shard at a time: repetitions and groups, references, the window
of energies, then the shuffle into buckets on disk, which are written out in order. Memory holds a part, a bucket and
what ADIOS2 keeps of the file it writes, whatever the size of the source.
"""

from __future__ import annotations

import heapq
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from ase.data import atomic_numbers, chemical_symbols
from numpy.typing import NDArray

from gfm_pipeline.apps.dataset.store.columns import Columns
from gfm_pipeline.apps.dataset.store.dataset import STATISTICS_FILE
from gfm_pipeline.apps.dataset.store.write import ATOM_BYTES, GRAPH_BYTES
from gfm_pipeline.apps.ingest.assembly.shard import (
    MEMBERS,
    Shard,
    ShardIndex,
    by_frequency,
    open_shard,
    read_quarantine,
    reason_name,
    take,
    write_quarantine,
)
from gfm_pipeline.apps.ingest.assembly.shuffle import Buckets, Counted, plan_files
from gfm_pipeline.apps.ingest.assembly.splits import SPLITS, GroupSplits
from gfm_pipeline.apps.ingest.assembly.writer import Placing, finish, place
from gfm_pipeline.apps.ingest.checks.filters import Conversion
from gfm_pipeline.apps.ingest.checks.label_consistency import Evidence
from gfm_pipeline.apps.ingest.checks.record_scan import (
    Fit,
    Marks,
    Rows,
    all_parts,
    composition,
    count_groups,
    keys,
    mark_duplicates,
    mark_other_units,
    mark_outside,
    merge_last,
    read_energies,
    survey_groups,
)
from gfm_pipeline.apps.ingest.mpi import Ranks
from gfm_pipeline.apps.ingest.read import said_about
from gfm_pipeline.apps.ingest.readers.registry import get_reader
from gfm_pipeline.apps.ingest.summary.histograms import ingest_report
from gfm_pipeline.apps.ingest.summary.provenance import provenance
from gfm_pipeline.apps.ingest.summary.references import ReferenceEnergies
from gfm_pipeline.apps.ingest.summary.report import render
from gfm_pipeline.apps.ingest.summary.statistics import Totals
from gfm_pipeline.apps.runtime.program import Task, run_program
from gfm_pipeline.core.contracts.data import (
    QUARANTINE_FILE,
    AssembleResult,
    AssembleSpec,
    BadRecord,
    DatasetStatistics,
    Split,
)
from gfm_pipeline.core.contracts.ingest_report import REPORT_DATA_FILE, REPORT_FILE, SetAside
from gfm_pipeline.core.contracts.layout import LAYOUT_FILE
from gfm_pipeline.core.errors import DataError
from gfm_pipeline.core.publish import publishing, read_manifest, storage_errors, write_record
from gfm_pipeline.core.records import read_record, to_plain

_SCRATCH = ".scratch"


@dataclass
class _Source:
    """The shards of a source, opened, and what was set aside of them so far."""

    spec: AssembleSpec
    folders: list[Path]
    indexes: list[ShardIndex]
    evidence: Evidence
    reasons: Counter[str]
    first: BadRecord | None
    late: list[BadRecord] = field(default_factory=list)

    @property
    def read(self) -> int:
        """Records read, good and bad."""
        return sum(index.n_records + index.n_quarantined for index in self.indexes)

    def set_aside(self, bad: BadRecord) -> None:
        """Count a record that was found unusable only now; those over the limit need not be listed."""
        self.reasons[reason_name(bad.reason)] += 1
        self.first = self.first or bad
        if len(self.late) <= self.spec.max_quarantined * self.read:
            self.late.append(bad)

    def quarantine(self) -> Iterator[BadRecord]:
        """Yield everything that was set aside, in the order of the source, then what was found late."""
        files = {file: number for number, file in enumerate(self.spec.source.files)}
        shards = (read_quarantine(folder) for folder in self.folders)
        yield from heapq.merge(*shards, key=lambda bad: (files.get(bad.file, 0), bad.index))
        yield from sorted(self.late, key=lambda bad: (files.get(bad.file, 0), bad.index))

    def check(self) -> None:
        """Refuse a source of which too much was set aside, or nothing is left."""
        bad, total = sum(self.reasons.values()), self.read
        if bad < total and bad <= self.spec.max_quarantined * total:
            return
        name, limit = self.spec.source.name, self.spec.max_quarantined
        table = ", ".join(f"{n} x {reason}" for reason, n in by_frequency(self.reasons).items())
        example = f" First: {self.first.file}, record {self.first.index}: {self.first.reason}." if self.first else ""
        if bad == total:
            said = f"all {total} were set aside ({table}).{example}" if total else self._nothing()
            raise DataError(
                f"Source {name} has no usable record: {said}", "Correct the source or its keys.", self.table()
            )
        raise DataError(
            f"Source {name}: {bad} of {total} records were set aside, more than the "
            f"{100 * limit:g} % allowed ({table}).{example}",
            "Correct the source, or raise max_quarantined if they may be left out.",
            self.table(),
        )

    def passed_over(self) -> dict[str, int]:
        """Return why records were passed over, and how many."""
        counts: Counter[str] = Counter()
        for index in self.indexes:
            counts.update(index.passed_over)
        return by_frequency(counts)

    def _nothing(self) -> str:
        over = ", ".join(f"{n} x {reason}" for reason, n in self.passed_over().items())
        return f"all that it holds was passed over ({over})." if over else "it is empty."

    def by_reason(self) -> tuple[SetAside, ...]:
        """Return why records were set aside, how many, and the first of each kind; most frequent first."""
        first: dict[str, BadRecord] = {}
        for bad in self.quarantine():
            first.setdefault(reason_name(bad.reason), bad)
            if len(first) == len(self.reasons):
                break
        return tuple(
            SetAside(reason, number, first[reason].file, first[reason].index)
            if reason in first
            else SetAside(reason, number)
            for reason, number in by_frequency(self.reasons).items()
        )

    def table(self) -> str:
        """Return `by_reason` as lines of text."""
        rows = [("reason", "records", "share", "first")]
        for kind in self.by_reason():
            example = "" if kind.file is None else f"{kind.file}, record {kind.index}"
            rows.append((kind.reason, f"{kind.records:,}", f"{100 * kind.records / max(1, self.read):.3g} %", example))
        wide = [max(len(row[k]) for row in rows) for k in range(3)]
        return "\n".join(f"{a:<{wide[0]}}  {b:>{wide[1]}}  {c:>{wide[2]}}  {d}".rstrip() for a, b, c, d in rows)


def _open(spec: AssembleSpec, task: Task) -> _Source:
    folders, indexes, evidence = [Path(path) for path in spec.shards], [], []
    reasons: Counter[str] = Counter()
    for folder in folders:
        task.check()
        index, seen = open_shard(folder)
        indexes.append(index)
        evidence.append(seen)
        reasons.update(index.reasons)
        task.progress(done=len(indexes), total=len(folders), quarantined=sum(reasons.values()))
    source = _Source(spec, folders, indexes, Evidence.merge(evidence), reasons, None)
    source.first = next(source.quarantine(), None)
    source.check()
    return source


@dataclass(frozen=True)
class _Plan:
    """What was decided before a record is placed."""

    parts: list[Rows]
    marks: Marks
    splits: GroupSplits
    present: NDArray[np.int64]  # atomic numbers of all that was read
    graphs: dict[Split, int]
    atoms: dict[Split, int]
    groups: dict[Split, int]


def _decide(source: _Source, scratch: Path, task: Task) -> _Plan:
    spec = source.spec
    parts = all_parts(source.folders, source.indexes)
    marks = Marks(scratch / "marks", sum(part.n for part in parts))
    if spec.source.duplicates != "keep":
        mark_duplicates(parts, spec.source, marks, source.set_aside)
        source.check()
    present = np.array(sorted({z for index in source.indexes for z in index.elements}), dtype=np.int64)
    task.check()
    if mark_other_units(parts, spec.source, marks, present, spec.seed, source.set_aside):
        source.check()
    task.check()
    splits = GroupSplits.of(survey_groups(parts, marks), spec.validation, spec.test, spec.seed, spec.source.name)
    graphs, atoms, references = _survey(spec, parts, marks, splits, present, task)
    if spec.source.energy_window is not None:
        energies = np.array([references.energies.get(chemical_symbols[z], 0.0) for z in present.tolist()])
        if mark_outside(parts, spec.source, marks, present, energies, source.set_aside):
            source.check()
            graphs, atoms, _ = _survey(spec, parts, marks, splits, present, task)
    groups = dict(zip(SPLITS, count_groups(parts, marks, splits.split), strict=True))
    return _Plan(parts, marks, splits, present, graphs, atoms, groups)


def _survey(
    spec: AssembleSpec, parts: list[Rows], marks: Marks, splits: GroupSplits, present: NDArray[np.int64], task: Task
) -> tuple[dict[Split, int], dict[Split, int], ReferenceEnergies]:
    """Count structures and atoms of every split, and fit the references the window of energies is laid around."""
    fit = Fit(present)
    graphs, atoms = np.zeros(3, np.int64), np.zeros(3, np.int64)
    for counts, energy, group_id in read_energies(parts, marks, present):
        task.check()
        where = splits.split(group_id)
        train = where == SPLITS.index(Split.TRAIN)
        if spec.source.energy_window is not None:
            fit.add(counts[train], energy[train])
        graphs += np.bincount(where, minlength=3)
        atoms += np.bincount(where, weights=counts.sum(axis=1), minlength=3).astype(np.int64)
    elements = tuple(chemical_symbols[z] for z in present.tolist())
    references = fit.solve(elements, spec.source.isolated_energies)
    return dict(zip(SPLITS, graphs.tolist(), strict=True)), dict(zip(SPLITS, atoms.tolist(), strict=True)), references


def _references(spec: AssembleSpec, plan: _Plan, buckets: dict[Split, Buckets]) -> ReferenceEnergies:
    """Fit the references on the training split in its shuffled order, so that no bit depends on the shards."""
    fit = Fit(plan.present)
    for natoms, energy, numbers in buckets[Split.TRAIN].energies():
        fit.add(composition(numbers, natoms, plan.present), energy)
    used = {
        z for bucket in buckets.values() for _, _, numbers in bucket.energies() for z in np.unique(numbers).tolist()
    }
    return fit.solve(tuple(chemical_symbols[z] for z in sorted(used)), spec.source.isolated_energies)


def _counted(part: Shard, group: NDArray[np.int64], origin: NDArray[np.int64]) -> Counted:
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
        graph_attr=np.nan_to_num(np.stack([part.charge, part.spin], axis=1)),
    )
    return Counted(columns, part.degrees)


def _scatter(source: _Source, plan: _Plan, scratch: Path, task: Task) -> dict[Split, Buckets]:
    """Append every kept record to the bucket of its place in the shuffled order."""
    buckets = {s: Buckets.sized(scratch, s, plan.graphs[s], plan.atoms[s]) for s in SPLITS}
    offsets = merge_last(source.indexes)
    done, total = 0, sum(plan.graphs.values())
    for rows in plan.parts:
        task.check()
        part = take(rows.load(), np.flatnonzero(plan.marks.kept(rows)))
        where, key = plan.splits.split(part.group_id), keys(source.spec.seed, part)
        files = part.file_index * MEMBERS + part.member
        base = np.array([offsets[file] for file in files.tolist()], dtype=np.int64)
        records = _counted(part, plan.splits.number(part.group_id), base + part.index)
        for number, split in enumerate(SPLITS):
            mine = np.flatnonzero(where == number)
            if len(mine):
                buckets[split].add(key[mine], records.take(mine))
        done += len(part)
        task.progress(done=done, total=total, step="shuffle", quarantined=sum(source.reasons.values()))
    return buckets


def _placing(
    source: _Source, plan: _Plan, buckets: dict[Split, Buckets], folder: Path, scratch: Path
) -> tuple[Placing, Totals]:
    """Fit the references and divide the shuffled records over files."""
    spec, name = source.spec, source.spec.source.name
    size = sum(plan.graphs.values()) * GRAPH_BYTES + sum(plan.atoms.values()) * ATOM_BYTES
    chunk_atoms = {split: bucket.chunk_atoms() for split, bucket in buckets.items()}
    files = plan_files(name, chunk_atoms, max(1, -(-size // int(spec.shard_mb * 1e6))))
    references = _references(spec, plan, buckets)
    energies = {atomic_numbers[symbol]: energy for symbol, energy in references.energies.items()}
    work = Placing(folder, scratch, name, files, energies, buckets, plan.graphs, spec.edges_within)
    return work, Totals(references)


def help_assemble(task: Task, ranks: Ranks) -> None:
    """Do what a rank other than 0 does: its part of writing.

    Raises
    ------
    GFMError
        What another rank failed with, or this one.
    """
    work: Placing = ranks.hear()
    ranks.collect(lambda: place(work, None, task, ranks))


def assemble_program(spec: AssembleSpec, task: Task, ranks: Ranks | None = None) -> AssembleResult:
    """Split by group, fit the references on the training split, shuffle, and publish the dataset.

    Parameters
    ----------
    spec, task
        What is asked for, and the attempt this is.
    ranks
        The processes that write together; the others are in `help_assemble`. Default: this one alone.

    Raises
    ------
    DataError
        When too many records were set aside, none is left, or three splits cannot be formed.
    IntegrityError
        When a shard is damaged.
    StopRequested
        When the program is asked to stop; nothing is left behind.
    """
    ranks = Ranks() if ranks is None else ranks
    with ranks.leading():
        return _assemble(spec, task, ranks)


def _assemble(spec: AssembleSpec, task: Task, ranks: Ranks) -> AssembleResult:
    started = time.monotonic()
    source = _open(spec, task)
    output, name = Path(spec.output), spec.source.name
    meta: dict[str, object] = {"dataset": name}
    with publishing(output, "ingest.assemble", meta) as folder:
        scratch = folder / _SCRATCH
        with storage_errors(scratch):
            scratch.mkdir()
        plan = _decide(source, scratch, task)
        for split, n in plan.graphs.items():
            if not n:
                raise DataError(f"Split {split} of {name} is empty.", "Give it a larger fraction or more groups.")
        work, totals = _placing(source, plan, _scatter(source, plan, scratch, task), folder, scratch)
        ranks.tell(work)
        quarantined = sum(source.reasons.values())
        layout = finish(work, ranks.collect(lambda: place(work, totals, task, ranks, quarantined)), totals)
        shutil.rmtree(scratch)
        oddities: Counter[str] = Counter()
        for index in source.indexes:
            oddities.update(index.oddities)
        warned = said_about(source.evidence, dict(oddities), totals.energy_std())
        if (doubt := totals.references.sentence()) is not None:
            warned = (*warned, doubt)
        stats = totals.statistics(name, plan.groups, by_frequency(source.reasons), warned)
        conversions = Conversion.of(spec.source).sentences + get_reader(spec.source.reader).converted(spec.source)
        origin = provenance(spec, conversions, warned)
        meta["provenance"] = to_plain(origin)
        meta["content"] = layout.content
        write_record(folder / LAYOUT_FILE, layout)
        write_record(folder / STATISTICS_FILE, stats)
        write_quarantine(folder / QUARANTINE_FILE, source.quarantine())
        found = ingest_report(totals, source.read, source.by_reason(), source.passed_over())
        write_record(folder / REPORT_DATA_FILE, found)
        with storage_errors(folder / REPORT_FILE):
            text = render(spec, stats, totals, found, origin, layout.edges)
            (folder / REPORT_FILE).write_text(text, encoding="utf-8")
    for sentence in warned:
        sys.stdout.write(f"warning: {name}: {sentence}\n")
    task.progress(force=True, done=len(spec.shards), total=len(spec.shards), quarantined=stats.n_quarantined)
    return AssembleResult(
        output=str(output),
        digest=read_manifest(output).digest,
        statistics=read_record(DatasetStatistics, output / STATISTICS_FILE),
        seconds=time.monotonic() - started,
    )


if __name__ == "__main__":
    sys.exit(run_program(AssembleSpec, assemble_program))
