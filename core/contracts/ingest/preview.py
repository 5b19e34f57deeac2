"""Request and result of a preview of a source, which writes no files."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gfm_pipeline.core.contracts.data import AcrossSources, SourceSettings
from gfm_pipeline.core.contracts.ingest.label_keys import LabelInventory
from gfm_pipeline.core.contracts.ingest.reading import ReadLimits
from gfm_pipeline.core.contracts.ingest.report import Histogram
from gfm_pipeline.core.contracts.layout import RecordLine
from gfm_pipeline.core.contracts.targets import Target


@dataclass(frozen=True)
class PreviewSpec:
    """Look at a source before anything is converted.

    Parameters
    ----------
    source
        As ingest would get it.
    seed
        Decides which files, and which of the records read, are shown.
    records
        Records to show.
    scan
        Records to read at most.
    seconds
        Time to read for, at most.
    limits
        Of the process that reads.
    validation, test
        Shares of the records that ingest is to give these splits.
    across
        How splits are dealt beside those of other sources.
    max_quarantined
        Share of bad records beyond which ingest fails.
    """

    source: SourceSettings
    seed: int
    records: int = 10
    scan: int = 2000
    seconds: float = 20.0
    limits: ReadLimits = field(default_factory=ReadLimits)
    validation: float = 0.1
    test: float = 0.1
    across: AcrossSources = AcrossSources.APART
    max_quarantined: float = 0.05


@dataclass(frozen=True)
class RemovedRecords:
    """What one filter would set aside of the records that were read."""

    reason: str
    records: int
    example: str


@dataclass(frozen=True)
class LabelCheck:
    """One look at the labels; ``passed`` is None where the data do not allow it."""

    name: str
    passed: bool | None
    sentence: str


@dataclass(frozen=True)
class TargetPreview:
    """Labels of a target besides energy and forces, or values of a graph attribute, in the usable records.

    ``records`` have one, and ``keys`` are what the data call it. ``values`` are in the target's unit: scalars, per atom
    of extensive values of structures, and the largest component of vectors and tensors; None where there are none.
    """

    target: Target
    records: int
    keys: tuple[str, ...]
    values: Histogram | None
    attribute: bool = False


@dataclass(frozen=True)
class SplitPreview:
    """One split as the records that were read would give it; ``requested`` is None where its records were given."""

    split: str
    records: int
    groups: int
    share: float
    requested: float | None
    elements: tuple[str, ...]


@dataclass(frozen=True)
class ReferencePreview:
    """Reference energies (eV) by element, how many of them the records determine, and where they come from."""

    energies: dict[str, float]
    rank: int
    origin: str


@dataclass(frozen=True)
class Preview:
    """The preview of a source.

    ``read`` records of ``files`` files; ``total`` records of the source where that is cheap to say. ``energies`` are
    after references fitted to what was read (eV/atom), ``forces`` the largest component of each record (eV/Angstrom).
    """

    source: str
    reader: str
    files: int
    files_read: int
    read: int
    complete: bool
    total: int | None
    usable: int
    groups: int
    elements: tuple[str, ...]
    records: tuple[RecordLine, ...]
    units: dict[str, str]
    conversions: tuple[str, ...]
    filters: dict[str, Any]
    energies: Histogram | None
    forces: Histogram | None
    removed: tuple[RemovedRecords, ...]
    checks: tuple[LabelCheck, ...]
    warnings: tuple[str, ...]
    labels: LabelInventory = field(default_factory=LabelInventory)
    targets: tuple[TargetPreview, ...] = ()
    passed_over: dict[str, int] = field(default_factory=dict)  # sound, and not for this source: reason, records
    splits: tuple[SplitPreview, ...] = ()  # that would result; none where only a sample was read
    references: ReferencePreview | None = None  # fitted to the usable records that were read
    failure: str | None = None  # why ingest would fail; None where nothing that was read makes it
