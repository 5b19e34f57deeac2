"""The numbers of an ingest report: ``ingest_report.json``, next to ``ingest_report.md`` for people."""

from __future__ import annotations

from dataclasses import dataclass, field

from gfm_pipeline.core.contracts.ingest.label_keys import LabelInventory

REPORT_FILE = "ingest_report.md"
REPORT_DATA_FILE = "ingest_report.json"


@dataclass(frozen=True)
class Histogram:
    """Counts of B bins between B + 1 edges; what lies outside is counted in the outermost. Of nothing: no edges."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class ElementCount:
    """Atoms of an element, and structures that have any, over all splits."""

    symbol: str
    atoms: int
    structures: int


@dataclass(frozen=True)
class SetAside:
    """Records that were set aside for one reason, and where the first of them is: file, and position in it from 0.

    ``file`` is None where none of them is listed, which is so for a source that was refused.
    """

    reason: str
    records: int
    file: str | None = None
    index: int | None = None


@dataclass(frozen=True)
class IngestReport:
    """What was found.

    Parameters
    ----------
    read
        Records read, good and bad.
    set_aside
        Most frequent reason first; every record is named in ``quarantine.jsonl``.
    passed_over
        Records that are sound and not for this source, by reason; they are not among those read.
    labels
        The keys of the records, and what was done with them.
    elements
        By atomic number.
    sizes
        Atoms of a structure; edges lie between whole numbers.
    energies
        Energy minus references, eV/atom.
    forces
        Absolute force components, eV/Angstrom; of nothing for a source of energies alone.
    targets
        Of each target beside energy and forces, in its unit: scalars minus their references, per atom of extensive
        values of structures, and absolute components of vectors and tensors.
    structures, components
        Structures kept, and force components known. Elements and sizes are counted of all; energies and forces of
        the first ones of each split in shuffled order, where there are very many.
    """

    read: int
    set_aside: tuple[SetAside, ...]
    elements: tuple[ElementCount, ...]
    sizes: Histogram
    energies: Histogram
    forces: Histogram
    structures: int
    components: int
    passed_over: dict[str, int] = field(default_factory=dict)
    labels: LabelInventory = field(default_factory=LabelInventory)
    targets: dict[str, Histogram] = field(default_factory=dict)
