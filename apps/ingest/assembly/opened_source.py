"""The checked, open shards of a source, and all quarantined records."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from gfm_pipeline.apps.ingest.assembly.shard import ShardIndex, open_shard, read_quarantine
from gfm_pipeline.apps.ingest.assembly.test_sets import LearnedData
from gfm_pipeline.apps.ingest.checks.label_evidence import Evidence
from gfm_pipeline.apps.ingest.reasons import by_frequency, reason_name
from gfm_pipeline.apps.runtime.program import Task
from gfm_pipeline.core.contracts.data import AssembleSpec, BadRecord
from gfm_pipeline.core.contracts.ingest.report import SetAside
from gfm_pipeline.core.errors import DataError


@dataclass
class OpenedSource:
    """The open shards of a source, and the records set aside so far; of a test set also the ``learned`` data."""

    spec: AssembleSpec
    folders: list[Path]
    indexes: list[ShardIndex]
    evidence: Evidence
    reasons: Counter[str]
    first: BadRecord | None
    late: list[BadRecord] = field(default_factory=list)
    learned: LearnedData | None = None

    @property
    def read(self) -> int:
        """Records read, good and bad."""
        return sum(index.n_records + index.n_quarantined for index in self.indexes)

    @property
    def weighted(self) -> tuple[str, ...]:
        """Names of targets whose labels have weights other than 1 in some record."""
        return tuple(sorted({name for index in self.indexes for name in index.weighted}))

    def set_aside(self, bad: BadRecord) -> None:
        """Count a record that proved unusable only now; records over the limit need not be listed."""
        self.reasons[reason_name(bad.reason)] += 1
        self.first = self.first or bad
        if len(self.late) <= self.spec.max_quarantined * self.read:
            self.late.append(bad)

    def quarantine(self) -> Iterator[BadRecord]:
        """Yield all records set aside, in the order of the source, then those found later."""
        files = {file: number for number, file in enumerate(self.spec.source.files)}
        shards = (read_quarantine(folder) for folder in self.folders)
        yield from heapq.merge(*shards, key=lambda bad: (files.get(bad.file, 0), bad.index))
        yield from sorted(self.late, key=lambda bad: (files.get(bad.file, 0), bad.index))

    def check(self) -> None:
        """Refuse a source with too many quarantined records, or without remaining records."""
        bad, total = sum(self.reasons.values()), self.read
        if bad < total and bad <= self.spec.max_quarantined * total:
            return
        name, limit = self.spec.source.name, self.spec.max_quarantined
        table = ", ".join(f"{n} x {reason}" for reason, n in by_frequency(self.reasons).items())
        example = f" First: {self.first.file}, record {self.first.index}: {self.first.reason}." if self.first else ""
        if bad == total:
            message = f"all {total} were set aside ({table}).{example}" if total else self._nothing()
            raise DataError(
                f"Source {name} has no usable record: {message}", "Correct the source or its keys.", self.table()
            )
        raise DataError(
            f"Source {name}: {bad} of {total} records were set aside, more than the "
            f"{100 * limit:g} % allowed ({table}).{example}",
            "Correct the source, or raise max_quarantined if they may be left out.",
            self.table(),
        )

    def passed_over(self) -> dict[str, int]:
        """Return the number of passed-over records by reason."""
        counts: Counter[str] = Counter()
        for index in self.indexes:
            counts.update(index.passed_over)
        return by_frequency(counts)

    def _nothing(self) -> str:
        over = ", ".join(f"{n} x {reason}" for reason, n in self.passed_over().items())
        return f"all that it holds was passed over ({over})." if over else "it is empty."

    def by_reason(self) -> tuple[SetAside, ...]:
        """Return the number and the first of the quarantined records by reason, most frequent first."""
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


def open_source(spec: AssembleSpec, task: Task) -> OpenedSource:
    """Open the shards of a source.

    Raises
    ------
    DataError
        When too many records were set aside, or none is left.
    IntegrityError
        When a shard is damaged.
    """
    folders, indexes, evidence = [Path(path) for path in spec.shards], [], []
    reasons: Counter[str] = Counter()
    for folder in folders:
        task.check()
        index, evidence_found = open_shard(folder)
        indexes.append(index)
        evidence.append(evidence_found)
        reasons.update(index.reasons)
        task.report_progress(done=len(indexes), total=len(folders), quarantined=sum(reasons.values()))
    learned = None if spec.source.test_of is None else LearnedData.open(spec.others)
    source = OpenedSource(spec, folders, indexes, Evidence.merge(evidence), reasons, None, learned=learned)
    source.first = next(source.quarantine(), None)
    source.check()
    return source
