"""Program: examine a source before conversion (`PreviewSpec` to `Preview`); it writes nothing."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from ase.data import chemical_symbols
from ase.formula import Formula
from numpy.typing import NDArray

from gfm_pipeline.apps.ingest.assembly.plan import reference_energies
from gfm_pipeline.apps.ingest.assembly.sample_splits import SampleSplits, sample_splits
from gfm_pipeline.apps.ingest.checks.filters import Conversion, faults, malformed, oddity
from gfm_pipeline.apps.ingest.checks.fingerprints import fingerprint
from gfm_pipeline.apps.ingest.checks.label_consistency import findings
from gfm_pipeline.apps.ingest.checks.label_evidence import Collector
from gfm_pipeline.apps.ingest.checks.lone_atoms import LONE, isolated_atoms_sentence, lowest_energies
from gfm_pipeline.apps.ingest.checks.record_scan import Fit, composition
from gfm_pipeline.apps.ingest.checks.units import UnitTest, unit_sentence
from gfm_pipeline.apps.ingest.files.isolation import isolated
from gfm_pipeline.apps.ingest.labels.inventory import Inventory, notes_of_keys
from gfm_pipeline.apps.ingest.read import check_source, read_warnings
from gfm_pipeline.apps.ingest.readers.registry import get_reader
from gfm_pipeline.apps.ingest.reasons import by_frequency, count_reason, reason_name
from gfm_pipeline.apps.ingest.records import PassedOver, Reader, Record, unreadable
from gfm_pipeline.apps.ingest.summary.provenance import filters, units
from gfm_pipeline.apps.runtime.query_program import answer_query
from gfm_pipeline.core.contracts.data import BadRecord, Duplicates, SourceSettings
from gfm_pipeline.core.contracts.ingest.label_keys import LabelInventory
from gfm_pipeline.core.contracts.ingest.preview import (
    LabelCheck,
    Preview,
    PreviewSpec,
    ReferencePreview,
    RemovedRecords,
    TargetPreview,
)
from gfm_pipeline.core.contracts.ingest.report import Histogram
from gfm_pipeline.core.contracts.layout import RecordLine
from gfm_pipeline.core.contracts.readers import describe
from gfm_pipeline.core.contracts.targets import Rank, Target

MAX_FILES = 32
MAX_ATOMS = 2_000_000  # in memory
BINS = 16


PreviewItem = Record | BadRecord | PassedOver


def _some(reader: Reader, spec: PreviewSpec, total: int | None) -> Iterator[tuple[str, PreviewItem | None]]:
    """Yield records of files drawn at random, beginning at the start of each; of a counted source, of all of it.

    None in place of a record means that its file holds more records.
    """
    source = spec.source
    rng = np.random.default_rng(spec.seed)
    if describe(source.reader).makes_data or (total is not None and len(source.files) == 1):
        stride = max(1, (total or 0) // max(1, spec.scan))
        for item in reader.read(source, int(rng.integers(stride)), stride, spec.seed):
            yield item.file, item
        return
    drawn = rng.permutation(len(source.files)).tolist()
    each = -(-spec.scan // max(1, min(len(drawn), MAX_FILES)))
    for k in drawn:
        for number, item in enumerate(reader.read(source.only(k), 0, 1, spec.seed)):
            if number >= each:
                yield source.files[k], None
                break
            yield source.files[k], replace(item, file_index=k) if isinstance(item, Record) else item


class _Sample:
    """The records read, converted if possible, and the reasons to set records aside."""

    def __init__(self, source: SourceSettings) -> None:
        self.source, self.conversion = source, Conversion.of(source)
        self.read = 0
        self.records: list[Record] = []  # readable ones, with energy and, if the source has them, forces
        self.usable: list[Record] = []
        self.removed: Counter[str] = Counter()
        self.examples: dict[str, str] = {}
        self.oddities: Counter[str] = Counter()
        self.passed_over: Counter[str] = Counter()
        self.n_atoms = 0
        self.collector = Collector()
        self.inventory = Inventory(source)
        self._first_of: dict[int, Record] = {}

    @property
    def read_in_all(self) -> int:
        """Number of records from the reader."""
        return self.read + self.passed_over.total()

    def take_out(self, reason: str, file: str, index: int) -> None:
        """Count a reason."""
        self.removed[reason_name(reason)] += 1
        self.examples.setdefault(reason_name(reason), f"{file}, record {index}: {reason}")

    def add(self, item: PreviewItem) -> None:
        """Take one record as the reader gave it."""
        if isinstance(item, PassedOver):
            count_reason(self.passed_over, item.reason)
            return
        self.read += 1
        if isinstance(item, BadRecord):
            self.take_out(item.reason, item.file, item.index)
            return
        self.inventory.add(item)
        try:
            record = self.conversion.apply(item)
            reasons = list(faults(record, self.source))
        except Exception as error:  # noqa: BLE001 - as `clean` has it: what foreign values break costs the record
            bad = unreadable(self.source, item.file, item.index, error)
            self.take_out(bad.reason, bad.file, bad.index)
            return
        if self.source.duplicates is not Duplicates.KEEP and not reasons:
            first = self._first_of.setdefault(fingerprint(record, self.source.duplicates), record)
            if first is not record:
                reasons.append(f"duplicate: the same as record {first.index} of {first.file}")
        for reason in reasons:
            self.take_out(reason, record.file, record.index)
        if record.energy is None or not np.isfinite(record.energy) or malformed(record) is not None:
            return
        if record.forces is None:
            if self.conversion.sign and not record.omits_forces:
                return
        elif record.forces.shape != record.pos.shape or not np.isfinite(record.forces).all():
            return
        self.n_atoms += len(record.numbers)
        self.records.append(record)
        if not reasons:
            self.usable.append(record)
            self.collector.add(record)
            self.inventory.add_energy(record)
            odd = oddity(record)
            if odd is not None:
                self.oddities[odd] += 1

    def _energies(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
        """Return atoms of each element [G, S] and energies [G] (eV) of the usable records, and the elements [S]."""
        numbers = np.concatenate([r.numbers for r in self.usable]).astype(np.uint8)
        natoms = np.array([len(r.numbers) for r in self.usable])
        energy = np.array([r.energy for r in self.usable], dtype=np.float64)
        present = np.unique(numbers).astype(np.int64)
        return composition(numbers, natoms, present), energy, present

    def set_other_units_aside(self) -> None:
        """Set aside the records whose energy has another unit than the rest."""
        if not self.usable:
            return
        counts, energy, _ = self._energies()
        test = UnitTest.fit(counts, energy, self.source.energy_unit)
        found = [None] * len(energy) if test is None else test.units(counts, energy)
        for record, unit in zip(self.usable, found, strict=True):
            if unit is not None:
                self.take_out(unit_sentence(unit, self.source.energy_unit), record.file, record.index)
        self.usable = [record for record, unit in zip(self.usable, found, strict=True) if unit is None]

    def residuals(self) -> tuple[NDArray[np.float64], ReferencePreview, tuple[str, ...], tuple[str, ...]]:
        """Return energies minus references fitted to the usable records (eV/atom) [G], and the references.

        Then follow warnings and notes about the references.
        """
        counts, energy, present = self._energies()
        names = tuple(chemical_symbols[z] for z in present.tolist())
        lone = np.array([record.group == LONE for record in self.usable])
        alone = [record for record in self.usable if record.group == LONE]
        found = lowest_energies([int(r.numbers[0]) for r in alone], energy[lone].tolist(), [r.charge for r in alone])
        given = dict(self.source.isolated_energies or {})
        fit = Fit(present)
        fit.add(counts[~lone], energy[~lone])
        _, references, foreign = reference_energies(fit, names, given, found)
        notes = () if foreign else isolated_atoms_sentence({s: e for s, e in found.items() if s not in given})
        doubt = references.sentence()
        off = energy - counts @ np.array([references.energies[name] for name in names])
        fitted = ReferencePreview(references.energies, references.rank, references.origin)
        return off / counts.sum(axis=1), fitted, (*foreign, *(() if doubt is None else (doubt,))), notes


def _target(target: Target, records: list[Record], labels: LabelInventory, source: SourceSettings) -> TargetPreview:
    """Return the preview of the labels of a target, or of the values of an attribute, in the usable records."""
    known = [(r.labels[target.name], len(r.numbers)) for r in records if target.name in r.labels]
    values = [v / n if target.per_atom else v for v, n in known]
    shown = [v.ravel() if target.rank is Rank.SCALAR else np.abs(v).max(keepdims=True).ravel() for v in values]
    keys = tuple(key.key for key in labels.keys if key.use == target.name)
    return TargetPreview(
        target, len(known), keys, _histogram(np.concatenate([np.zeros(0), *shown])), target not in source.targets
    )


def _histogram(values: NDArray[np.float64]) -> Histogram | None:
    """Return counts between the second and the 98th percentile, outliers in the outermost bins."""
    if not len(values):
        return None
    low, high = (float(v) for v in np.quantile(values, [0.02, 0.98]))
    if not high > low:
        low, high = float(values.min()) - 1e-6, float(values.max()) + 1e-6
    counts, edges = np.histogram(np.clip(values, low, high), bins=BINS, range=(low, high))
    return Histogram(tuple(edges.tolist()), tuple(counts.tolist()))


def record_line(record: Record) -> RecordLine:
    """Return the line for a converted record."""
    symbols = [chemical_symbols[z] if 0 < z < len(chemical_symbols) else "X" for z in np.asarray(record.numbers)]
    energy = 0.0 if record.energy is None else record.energy
    return RecordLine(
        place=f"{record.file}#{record.index}",
        formula=str(Formula.from_list(symbols).format("hill")),
        n_atoms=len(symbols),
        energy=energy,
        energy_per_atom=energy / len(symbols),
        max_force=None if record.forces is None else float(np.abs(record.forces).max()),
        group=str(record.group),
        periodic="".join(axis for axis, on in zip("xyz", record.pbc, strict=True) if on) or "none",
        charge=record.charge,
        spin=record.spin,
    )


def preview(spec: PreviewSpec) -> Preview:
    """Read a bounded sample of the source and return the expected result of ingest.

    Raises
    ------
    DataError
        When the source cannot be read at all, or has no record.
    """
    source = spec.source
    check_source(source)
    reader = isolated(get_reader(source.reader), spec.limits)
    total = reader.count(source)
    sample, files, ends, complete = _Sample(source), set[str](), time.monotonic() + spec.seconds, True
    for file, item in _some(reader, spec, total):
        if item is None:
            complete = False
            continue
        if sample.read_in_all >= spec.scan or sample.n_atoms >= MAX_ATOMS or time.monotonic() > ends:
            complete = False
            break
        files.add(file)
        sample.add(item)
    complete = complete and (len(files) == len(source.files) or describe(source.reader).makes_data)
    complete = complete and total in (None, sample.read_in_all)
    sample.set_other_units_aside()
    references: ReferencePreview | None = None
    energies = np.zeros(0)
    doubt: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    if sample.usable:
        energies, references, doubt, notes = sample.residuals()
        if source.energy_window is not None:
            low, high = source.energy_window
            bound = np.array([record.group != LONE for record in sample.usable])
            for at in np.flatnonzero(((energies < low) | (energies > high)) & bound).tolist():
                reason = f"energy outside the window: {energies[at]:.4g} eV/atom after the references"
                sample.take_out(reason, sample.usable[at].file, sample.usable[at].index)
    evidence, labels = sample.collector.evidence(), sample.inventory.found()
    scatter = float(energies.std()) if len(energies) > 1 else None
    outside = sample.removed["energy outside the window"]
    rng = np.random.default_rng(spec.seed)
    shown = sorted(rng.choice(len(sample.records), min(spec.records, len(sample.records)), replace=False).tolist())
    largest = np.array([np.abs(r.forces).max() for r in sample.records if r.forces is not None])
    splits = sample_splits(sample.usable, spec, complete)
    usable = len(sample.usable) - outside
    return Preview(
        source=source.name,
        reader=source.reader,
        files=len(source.files),
        files_read=len(files) if source.files else 0,
        read=sample.read,
        complete=complete,
        total=total,
        usable=usable,
        groups=len({r.group for r in sample.usable}),
        elements=() if references is None else tuple(references.energies),
        records=tuple(record_line(sample.records[k]) for k in shown),
        units=units(source),
        conversions=sample.conversion.sentences + reader.converted(source) + notes + notes_of_keys(labels),
        filters=filters(source),
        energies=_histogram(energies),
        forces=_histogram(largest),
        removed=tuple(RemovedRecords(r, n, sample.examples[r]) for r, n in sample.removed.most_common() if n),
        passed_over=by_frequency(sample.passed_over),
        labels=labels,
        targets=tuple(_target(target, sample.usable, labels, source) for target in source.columns),
        checks=tuple(LabelCheck(f.check, f.passed, f.sentence) for f in findings(evidence, scatter)),
        warnings=(
            *read_warnings(evidence, dict(sample.oddities), labels, scatter),
            *splits.sentences,
            *(() if splits.failure is None else (splits.failure,)),
            *(doubt if source.test_of is None else ()),  # a test set has the references of its source
        ),
        splits=splits.splits,
        references=references if source.test_of is None else None,
        failure=_failure(sample, usable, spec, splits),
    )


def _failure(sample: _Sample, usable: int, spec: PreviewSpec, splits: SampleSplits) -> str | None:
    """Return why ingest would fail on these records, or None."""
    if not sample.read and sample.passed_over:
        return f"select chooses none of the {sample.passed_over.total():,} records that were read"
    if not usable:
        reasons = (f"{n} x {reason}" for reason, n in sample.removed.most_common(3) if n)
        return f"no record is usable: {', '.join(reasons) or 'none was read'}"
    aside = (sample.read - usable) / max(1, sample.read)
    if aside > spec.max_quarantined:
        return (
            f"{aside:.1%} would be set aside, and max_quarantined is {spec.max_quarantined:.1%}. Correct the source, "
            "or raise max_quarantined"
        )
    return splits.failure


if __name__ == "__main__":
    sys.exit(answer_query(PreviewSpec, preview))
