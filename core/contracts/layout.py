"""Layout and provenance of a published dataset folder, readable from any language: ``layout.json``."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from typing import Any

import msgspec

from gfm_pipeline.core.contracts.dataset_statistics import TargetStatistics
from gfm_pipeline.core.strenum import StrEnum

LAYOUT_FILE = "layout.json"
CHUNK = 2048  # graphs in a written block: windows of this size read back at disk speed


@dataclass(frozen=True)
class LabelExtent:
    """The part of one split in one BP file.

    ``atom_start`` is the first atom (a row of ``<label>/pos`` of this file) of each chunk of `CHUNK` graphs: a reader
    uses it to find any window of whole chunks without the offsets of every graph.
    """

    n_graphs: int
    n_atoms: int
    atom_start: tuple[int, ...]


@dataclass(frozen=True)
class BpShard:
    """One BP file of a dataset; every one is complete by itself in HydraGNN's layout."""

    file: str
    labels: dict[str, LabelExtent]


@dataclass(frozen=True)
class EdgeExtent:
    """The stored edges of one split.

    ``first`` is the first edge (a row of ``<label>.edges.npy``) of each chunk of graphs; ``unpacked`` graphs have an
    edge that does not fit into 64 bits and are stored without edges.
    """

    first: tuple[int, ...]
    n_edges: int
    unpacked: int


@dataclass(frozen=True)
class EdgeLayout:
    """Edges stored with the BP files: all pairs closer than ``cutoff`` (Angstrom), by split."""

    cutoff: float
    splits: dict[str, EdgeExtent]


class DatasetLayout(msgspec.Struct, frozen=True, omit_defaults=True):
    """The files of a dataset, in order; the graphs of a split are those of the files end to end.

    ``content`` is the SHA-256 of what the dataset holds (every key of every split, in order), whatever files it is
    divided into and whatever wrote them; edges follow from it and are not part of it. ``edges`` is left out of the
    file where none are stored: such a dataset has the bytes, and the digest, it had before edges could be.
    """

    chunk: int
    content: str
    files: tuple[BpShard, ...]
    edges: EdgeLayout | None = None


@dataclass(frozen=True)
class Origins:
    """Where the records of a dataset come from, kept in its manifest.

    ``files`` are names, those of members of archives with the member's number, and ``starts`` the numbers in the source
    of their first records, ascending. ``groups`` are the names of the groups 0, 1, ...; of nothing where there are very
    many, or where they have none. ``config_types`` are the kinds of configurations that test structures state: the
    number of the first record of each run, and its kind.
    """

    files: tuple[str, ...]
    starts: tuple[int, ...]
    groups: tuple[str, ...] = ()
    config_types: tuple[tuple[int, str], ...] = ()

    def config_type(self, number: int) -> str:
        """Return the kind of configuration of a test structure, by its number in the source; '' for none."""
        run = bisect_right(self.config_types, number, key=lambda one: one[0]) - 1
        return self.config_types[run][1] if run >= 0 else ""

    def place(self, number: int) -> str:
        """Return the file of a record, by its number in the source, and its position there: ``a.xyz#7``."""
        file = bisect_right(self.starts, number) - 1
        return f"{self.files[file]}#{number - self.starts[file]}" if file >= 0 else f"record {number} of the source"

    def group(self, number: int) -> str:
        """Return the name of a group, or its number where it has none."""
        return self.groups[number] if 0 <= number < len(self.groups) else str(number)


@dataclass(frozen=True)
class Provenance:
    """Where a dataset comes from and what was done to it, kept in its manifest."""

    source: str
    reader: str
    n_files: int
    level_of_theory: str | None
    licence: str | None
    citation: str | None
    charge: int | None
    spin: int | None
    units: dict[str, str]
    conversions: tuple[str, ...]
    filters: dict[str, Any]
    warnings: tuple[str, ...] = ()


class ExportedEnergies(StrEnum):
    """What an exported file gives models to learn, and whether it says which element energies were subtracted."""

    RESIDUAL = "residual"
    TOTAL = "total"


@dataclass(frozen=True)
class HydragnnExport:
    """How a dataset is exported for HydraGNN; the defaults are those of its published foundation models.

    Attributes
    ----------
    radius
        Pairs closer than this are edges, Angstrom.
    max_neighbours
        Of the edges that end in an atom, so many are kept, the shortest.
    energies
        Total energies, or what is left of them without the energies of the elements.
    name
        What the file calls the dataset; None for its name here. HydraGNN's scripts know their own names only.
    """

    radius: float = 5.0
    max_neighbours: int = 20
    energies: ExportedEnergies = ExportedEnergies.RESIDUAL
    name: str | None = None


@dataclass(frozen=True)
class DatasetExportFacts:
    """The exported dataset.

    Structures without an edge are ``left_out``; of the others ``atoms_alone`` are atoms without one, and
    ``without_forces`` structures. ``content`` is the digest of the records of the whole dataset.
    """

    output: str
    bytes: int
    structures: int
    edges: int
    left_out: int
    atoms_alone: int
    without_forces: int
    content: str


@dataclass(frozen=True)
class InspectSpec:
    """A question to `gfm_pipeline.apps.dataset.inspect`: ``action`` is info, head, verify or export."""

    action: str
    folder: str
    count: int = 5
    output: str | None = None
    export: HydragnnExport = HydragnnExport()


@dataclass(frozen=True)
class SplitFacts:
    """Numbers of one split."""

    structures: int
    atoms: int
    groups: int


@dataclass(frozen=True)
class EdgeFacts:
    """Stored edges of a dataset; ``cutoff`` in Angstrom, and graphs whose edges are listed when they are read."""

    cutoff: float
    n_edges: int
    bytes: int
    unpacked: int


@dataclass(frozen=True)
class DatasetInfo:
    """The answer of ``dataset info``; energies in eV, forces in eV/Angstrom."""

    name: str
    folder: str
    digest: str
    content: str | None
    bytes: int
    files: dict[str, int]
    splits: dict[str, SplitFacts]
    elements: dict[str, float]
    reference_from: str
    force_rms: float
    energy_std: float
    max_atoms: int
    n_quarantined: int
    reasons: dict[str, int]
    warnings: tuple[str, ...]
    provenance: dict[str, Any] = field(default_factory=dict)
    edges: EdgeFacts | None = None
    targets: dict[str, TargetStatistics] = field(default_factory=dict)


@dataclass(frozen=True)
class RecordLine:
    """One record as ``head`` and ``--preview`` print it."""

    place: str
    formula: str
    n_atoms: int
    energy: float
    energy_per_atom: float
    max_force: float | None  # None: forces not known
    group: str
    periodic: str
    charge: float | None = None
    spin: float | None = None
