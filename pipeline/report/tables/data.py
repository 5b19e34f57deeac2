"""Tables about the data of a campaign."""

from __future__ import annotations

from collections.abc import Mapping

from gfm_pipeline.core.contracts.data import Split
from gfm_pipeline.core.contracts.dataset_statistics import DatasetStatistics
from gfm_pipeline.report.sources import Found
from gfm_pipeline.report.tables.table import Column, Table
from gfm_pipeline.report.text import MISSING, count, milli, significant, symbol
from gfm_pipeline.report.view import CampaignView

MOST_KEYS = 60  # rows per dataset
MOST_VALUES = 6  # values per key
_SPLIT_NAMES = {Split.TRAIN: "train", Split.VALIDATION: "validation", Split.TEST: "test"}


def datasets(view: CampaignView) -> Table:
    """Statistics of every dataset."""
    rows = tuple(_dataset_row(facts) for facts in view.datasets)
    columns = (
        Column("Dataset"), Column("Elements"), Column("Structures (train / validation / test)", True),
        Column("Atoms", True), Column("Groups", True), Column("Largest", True), Column("Force RMS, eV/Å", True),
        Column("Energy std, meV/atom", True), Column("References"), Column("Set aside", True),
    )  # fmt: skip
    return Table(columns, rows, "Splits are by whole groups: all frames of one trajectory are in the same split.")


def _dataset_row(facts: DatasetStatistics) -> tuple[str, ...]:
    return (
        facts.name,
        " ".join(facts.elements),
        " / ".join(count(facts.n_structures.get(split, 0)) for split in _SPLIT_NAMES),
        count(sum(facts.n_atoms.values())),
        count(sum(facts.n_groups.values())),
        f"{count(facts.max_atoms)} atoms",
        significant(facts.force_rms) if facts.force_rms > 0.0 else MISSING,  # only energies
        milli(facts.energy_std),
        f"{facts.reference_from} (rank {facts.reference_rank})",
        count(facts.n_quarantined),
    )


def sources(view: CampaignView) -> Table:
    """List every source with its read records so far, joined or not."""
    rows = tuple(
        (
            source.name,
            f"{symbol(source.status)} {source.status}",
            f"{count(source.shards_read)} / {count(source.shards)}",
            count(source.records),
            count(source.set_aside),
            share(source.set_aside, source.records),
            reasons_line(source.reasons) or MISSING,
            source.quarantine or MISSING,
        )
        for source in view.sources
    )
    columns = (
        Column("Source"), Column("Status"), Column("Shards read", True), Column("Records", True),
        Column("Set aside", True), Column("Share", True), Column("Reasons"), Column("Listed in"),
    )  # fmt: skip
    return Table(columns, rows, "Records read so far, good and bad; done is what was joined to a dataset.")


def reasons_line(reasons: Mapping[str, int], most: int = 3, what: str = "reasons") -> str:
    """Return the most frequent reasons, or other counted things, in one line."""
    shown = [f"{count(number)} x {reason}" for reason, number in _by_frequency(reasons)[:most]]
    return ", ".join(shown) + (f" and {len(reasons) - most} more {what}" if len(reasons) > most else "")


def share(part: int, whole: int) -> str:
    """Return a share of records in percent, with enough digits that one of many is not 0."""
    return f"{significant(100 * part / whole)} %" if part else "0 %"


def read_of(facts: DatasetStatistics) -> int:
    """Return the number of read records of a dataset's source, good and bad."""
    return sum(facts.n_structures.values()) + facts.n_quarantined


def set_aside(facts: DatasetStatistics, found: Found | None) -> Table:
    """List why records of a dataset were quarantined, with numbers, and the place of the first record of each kind."""
    numbers = found.numbers if found is not None else None
    first = {kind.reason: kind for kind in numbers.set_aside} if numbers is not None else {}
    rows = []
    for reason, number in _by_frequency(facts.reasons):
        kind = first.get(reason)
        place = MISSING if kind is None or kind.file is None else f"{kind.file}, record {count(kind.index)}"
        rows.append((reason, count(number), share(number, read_of(facts)), place))
    columns = (Column("Reason"), Column("Records", True), Column("Share of records read", True), Column("First"))
    return Table(columns, tuple(rows))


def set_aside_line(facts: DatasetStatistics, found: Found | None) -> str:
    """Return one sentence: the number of quarantined records, and the file that lists them."""
    if not facts.n_quarantined:
        return f"None of {count(read_of(facts))} records read was set aside."
    line = f"{count(facts.n_quarantined)} of {count(read_of(facts))} records read were set aside"
    line += f" ({share(facts.n_quarantined, read_of(facts))})"
    return f"{line}; every one is named in {found.quarantine}." if found is not None else f"{line}."


def found_line(found: Found) -> str:
    """Return the path of the full report of ingest, or why its numbers cannot be shown."""
    if found.problem:
        return f"What ingest found cannot be shown: {found.problem}"
    return f"The full report of ingest: {found.report}."


def label_keys(found: Found | None) -> Table:
    """List the labels and metadata in the records of a dataset's source, and the use of each."""
    columns = (
        Column("Key"), Column("What it is"), Column("Shape"), Column("Records", True), Column("Used as"),
        Column("Values"),
    )  # fmt: skip
    if found is None or found.numbers is None:
        return Table(columns, ())
    keys = found.numbers.labels.keys
    rows = tuple(
        (
            key.key,
            key.kind,
            key.shape,
            count(key.records),
            key.use,
            reasons_line(key.values, MOST_VALUES, "values") or MISSING,
        )
        for key in keys[:MOST_KEYS]
    )
    note = "Every key the records have, used or not."
    if len(keys) > MOST_KEYS:
        note = f"The first {MOST_KEYS} of {count(len(keys))} keys; the report of ingest lists them all."
    return Table(columns, rows, note)


def _by_frequency(reasons: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(reasons.items(), key=lambda item: (-item[1], item[0]))


def label_warnings(view: CampaignView) -> Table:
    """List suspicious facts of kept records: units, signs, cells."""
    rows = tuple((facts.name, sentence) for facts in view.datasets for sentence in facts.warnings)
    return Table((Column("Dataset"), Column("Warning")), rows)
