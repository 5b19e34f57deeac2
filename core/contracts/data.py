"""Ingest: from structure files to one dataset per source.

Internal units are eV, Angstrom, eV/Angstrom and elementary charge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gfm_pipeline.core.contracts.dataset_statistics import DatasetStatistics
from gfm_pipeline.core.contracts.ingest.reading import ReadLimits
from gfm_pipeline.core.contracts.properties.attributes import Attribute
from gfm_pipeline.core.contracts.targets import Target
from gfm_pipeline.core.contracts.task import TaskSpec
from gfm_pipeline.core.strenum import StrEnum


class Split(StrEnum):
    """The three splits, with the labels HydraGNN's file layout gives them."""

    TRAIN = "trainset"
    VALIDATION = "valset"
    TEST = "testset"


class EnergyUnit(StrEnum):
    """Energy units a source may be in."""

    EV = "eV"
    HARTREE = "Ha"
    KCAL_MOL = "kcal/mol"
    KJ_MOL = "kJ/mol"


class LengthUnit(StrEnum):
    """Length units a source may be in."""

    ANGSTROM = "Angstrom"
    BOHR = "Bohr"


class ForceSign(StrEnum):
    """What the force label of a source is: the force on an atom, the gradient of the energy, or none at all."""

    FORCES = "forces"
    GRADIENTS = "gradients"
    NONE = "none"


class Duplicates(StrEnum):
    """Which repetitions of a record are taken out: none, equal ones, or those that differ by rounding only."""

    KEEP = "keep"
    EXACT = "exact"
    ROUNDED = "rounded"


class EdgeStorage(StrEnum):
    """Where edges come from: listed whenever structures are read, or stored with the dataset."""

    ON_THE_FLY = "on_the_fly"
    STORED = "stored"


class InconsistentPbc(StrEnum):
    """What becomes of records with a cell and no periodic direction: kept as not periodic, or set aside.

    Records with a periodic direction and no cell for it are set aside always.
    """

    KEEP = "keep"
    QUARANTINE = "quarantine"


class StatedUnits(StrEnum):
    """What becomes of units that data state of themselves: used where the source names no other, or ignored."""

    USE = "use"
    IGNORE = "ignore"


class RecordWeights(StrEnum):
    """Whether weights that records state enter the loss."""

    USE = "use"
    IGNORE = "ignore"


class AcrossSources(StrEnum):
    """How splits of several sources are dealt: apart, or so that what sources share is in one split in all of them."""

    APART = "apart"
    TOGETHER = "together"


QUARANTINE_FILE = "quarantine.jsonl"  # of a shard and of a dataset: a `BadRecord` a line
SHARD_MB = 512.0
TEST_SET = "@"  # between the names of a source and of a test set
# Fields of `SourceSettings` that the first version lacked; campaigns of that version do not have them.
LATER_SETTINGS = frozenset(
    (
        "energy_per_atom", "forces_are", "charge", "spin", "level_of_theory", "licence", "citation", "energy_window",
        "duplicates", "isolated_atoms", "overlap", "inconsistent_pbc", "select", "stated_units", "split_key",
        "file_splits", "split_indices", "targets", "labels", "label_units", "record_weights", "test_of",
        "attributes", "attribute_values",
    )
)  # fmt: skip


@dataclass(frozen=True)
class IndexList:
    """Numbers of records of the first file of a source, for a split: where they are, their SHA-256, how many."""

    split: Split
    path: str
    sha256: str
    records: int


OVERLAP = 0.4  # of the sum of covalent radii; H2 is at 1.2, shock-compressed copper above 0.7


@dataclass(frozen=True)
class SourceSettings:
    """One source of labelled structures.

    Parameters
    ----------
    name
        Name of the dataset and of its branch in the model.
    reader
        Name of a reader or generator, see `gfm_pipeline.core.contracts.readers`.
    files
        Absolute paths, sorted; empty for generators.
    options
        Reader-specific options, already validated by the reader's own schema.
    energy_unit, length_unit
        Units of the files; everything is converted to eV and Angstrom. Forces are in energy_unit/length_unit.
    energy_per_atom
        The energy label is divided by the number of atoms.
    forces_are
        Forces, gradients of the energy (their sign is reversed), or none: only energies are read and learned.
    charge, spin
        Total charge (e) and spin multiplicity of records that do not state their own; None: not known.
    level_of_theory, licence, citation
        Where the labels come from, kept with the dataset.
    energy_key, forces_key
        Names of the labels where a format leaves them free (extxyz ``info``/``arrays`` keys,
        database columns); None: what the format's calculator results hold.
    group_key
        Metadata key that names the trajectory or family a record belongs to; None: the reader's default
        (the composition's reduced formula).
    max_force
        Records with a force component above this are quarantined (eV/Angstrom); None: no limit.
    energy_window
        Lowest and highest energy minus references (eV/atom); records outside are quarantined; None: no limit.
    duplicates
        Repetitions that are quarantined; the first of each stays.
    isolated_atoms
        Records with an atom that has no neighbour within this distance (Angstrom) are quarantined; None: kept.
    overlap
        Records with two atoms closer than this share of the sum of their covalent radii are quarantined.
    inconsistent_pbc
        Whether records with a cell and no periodic direction are quarantined.
    select
        Maps a key to allowed values; a record belongs to this source when it has one of them. None: all records belong.
        Whole numbers are written without a decimal point (``0``, not ``0.0``).
    stated_units
        Treatment of units that the data state.
    split_key
        Metadata key whose value is the split of a record; None: there is no such key.
    file_splits
        Split of each of ``files``; an entry None: the records of that file are dealt. None: those of all files are.
    split_indices
        Lists of record numbers for splits; None: no lists. With a list for training, records in no list are not used.
    targets
        Targets to read in addition to energy and forces; their weights are 1, since no dataset depends on them.
    labels
        Maps a target or attribute to its name in these data; None: they are found by their own names.
    label_units
        Maps a target or attribute to its unit in these data; None: the declared unit.
    record_weights
        Treatment of weights of records.
    test_of
        Source whose models are judged on these structures and never learn from them; None: they learn from them.
    attributes
        Declared graph attributes to read, in addition to total charge and spin multiplicity.
    attribute_values
        Values of declared attributes of records that do not state their own; None: not known.
    shards
        Number of shards; one task reads each.
    isolated_energies
        Element symbol to isolated-atom energy (eV); used instead of the fit where given.
    """

    name: str
    reader: str
    files: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    energy_unit: EnergyUnit = EnergyUnit.EV
    length_unit: LengthUnit = LengthUnit.ANGSTROM
    energy_key: str | None = None
    forces_key: str | None = None
    group_key: str | None = None
    max_force: float | None = None
    shards: int = 1
    isolated_energies: dict[str, float] | None = None
    energy_per_atom: bool = False
    forces_are: ForceSign = ForceSign.FORCES
    charge: int | None = None
    spin: int | None = None
    level_of_theory: str | None = None
    licence: str | None = None
    citation: str | None = None
    energy_window: tuple[float, float] | None = None
    duplicates: Duplicates = Duplicates.EXACT
    isolated_atoms: float | None = None
    overlap: float = OVERLAP
    inconsistent_pbc: InconsistentPbc = InconsistentPbc.KEEP
    select: dict[str, tuple[str, ...]] | None = None
    stated_units: StatedUnits = StatedUnits.USE
    split_key: str | None = None
    file_splits: tuple[Split | None, ...] | None = None
    split_indices: tuple[IndexList, ...] | None = None
    targets: tuple[Target, ...] = ()
    labels: dict[str, str] | None = None
    label_units: dict[str, str] | None = None
    record_weights: RecordWeights = RecordWeights.USE
    test_of: str | None = None
    attributes: tuple[Attribute, ...] = ()
    attribute_values: dict[str, float] | None = None

    @property
    def columns(self) -> tuple[Target, ...]:
        """The columns of the dataset besides energy, forces, total charge and spin: targets, then attributes."""
        return (*self.targets, *(one.column for one in self.attributes))

    def only(self, file: int) -> SourceSettings:
        """Return the same source with one of its files alone."""
        splits = None if self.file_splits is None else (self.file_splits[file],)
        lists = None if file else self.split_indices  # the indices count the records of the first file
        return replace(self, files=(self.files[file],), file_splits=splits, split_indices=lists)


def learned(sources: Sequence[SourceSettings]) -> tuple[SourceSettings, ...]:
    """Return the sources that models learn from, without test sets."""
    return tuple(source for source in sources if source.test_of is None)


def test_set_name(source: str, name: str) -> str:
    """Return the name of the dataset of a named test set; no source can have it."""
    return f"{source}{TEST_SET}{name}"


def is_test_set(dataset: str) -> bool:
    """Return whether a dataset of this name is a test set."""
    return TEST_SET in dataset


@dataclass(frozen=True)
class ReadShardSpec(TaskSpec):
    """Read (or generate) shard ``shard`` of ``source.shards`` within ``limits``, and publish it under ``output``."""

    source: SourceSettings
    shard: int
    seed: int
    output: str
    limits: ReadLimits = field(default_factory=ReadLimits)


@dataclass(frozen=True)
class BadRecord:
    """A record that was set aside, and why."""

    source: str
    file: str
    index: int
    reason: str


@dataclass(frozen=True)
class ReadShardResult:
    """What a shard holds; every quarantined record is listed in ``quarantine.jsonl`` of the shard."""

    output: str
    digest: str
    n_records: int
    n_quarantined: int
    reasons: dict[str, int]
    converted: tuple[str, ...]  # unit conversions done, in words
    seconds: float
    warnings: tuple[str, ...] = ()  # possible faults of the records that were kept


@dataclass(frozen=True)
class AssembleSpec(TaskSpec):
    """Join shards to one dataset: splits by group, reference energies, statistics.

    Parameters
    ----------
    shards
        Published shard folders, in order.
    validation, test
        Fractions of the records; whole groups are assigned.
    max_quarantined
        Largest tolerated share of quarantined records before the stage fails.
    output
        Folder to publish; holds ``<name>.bp`` (or several shards), ``layout.json``, ``statistics.json``,
        ``quarantine.jsonl``, the report (``ingest_report.md`` and ``.json``) and the manifest.
    shard_mb
        Largest size of a BP file, in MB; a larger dataset is divided into shards of at most this size.
    edges_within
        Edges of all pairs closer than this (Angstrom) are stored next to the BP files; None: no edges are stored.
    across
        How splits are dealt in relation to other sources.
    compared
        Whether there are other sources; the data needed to compare them is then kept with the dataset.
    others
        Published datasets of the other sources, when this source is the last: the stage then searches for structures
        shared among all of them. Of a test set: those that models learn from, its own source first.
    """

    source: SourceSettings
    shards: tuple[str, ...]
    validation: float
    test: float
    max_quarantined: float
    seed: int
    output: str
    shard_mb: float = SHARD_MB
    edges_within: float | None = None
    across: AcrossSources = AcrossSources.APART
    compared: bool = False
    others: tuple[str, ...] = ()

    def inputs(self) -> tuple[str, ...]:
        """Return the shards, and the datasets to compare with."""
        return self.shards + self.others


@dataclass(frozen=True)
class AssembleResult:
    """A finished dataset."""

    output: str
    digest: str
    statistics: DatasetStatistics
    seconds: float
