"""Errors of an ensemble on the test split, by element, size, group and file, and the worst structures."""

from __future__ import annotations

from dataclasses import dataclass, field

#: File of a published ensemble folder; ensembles from before 2026-12 have none.
SPLIT_ERRORS_FILE = "test_errors.json"


@dataclass(frozen=True)
class GroupErrors:
    """Errors of a target on the part of the test split that is ``group`` of ``by`` (all, element, size, ...).

    ``structures`` have labels, and ``n`` entries. Errors are in the unit of the target: per atom where it is extensive.
    ``largest`` is that of an entry, ``coverage`` the share of labels inside the calibrated intervals, and
    ``coverage_error`` its standard error with trajectories as clusters; None for a single one. Elements of a target of
    atoms are those of the atoms; elements of a target of structures are those that some structures contain.
    """

    target: str
    by: str
    group: str
    structures: int
    n: int
    mae: float
    rmse: float
    largest: float
    coverage: float
    coverage_error: float | None


@dataclass(frozen=True)
class GroupDomain:
    """Structures of a part of the test split, and how many of them are out of domain."""

    by: str
    group: str
    structures: int
    outside: int


@dataclass(frozen=True)
class DrawnStructure:
    """A structure of the test split with one of the largest errors of a target.

    Attributes
    ----------
    target, error
        The largest absolute error of its entries, in the unit of the target.
    halfwidth
        That of the interval of this entry; None where validation was too small for one.
    label, mean
        Label and prediction of this entry.
    origin
        File and record, e.g. ``a.xyz#7``.
    group
        Name of the trajectory or family.
    formula
        Of the whole structure.
    symbols, positions
        Elements and positions (Angstrom) [N, 3] of its atoms, or of the ``len(symbols)`` atoms nearest to ``atom``.
    natoms
        Atoms of the whole structure.
    cell
        Lattice vectors as rows (Angstrom); empty without periodic directions.
    radii
        Covalent radii (Angstrom) of the atoms [N].
    bonds
        Pairs of atoms, by index, closer than 1.15 times the sum of their covalent radii.
    atom
        Index, among ``symbols``, of the atom of the entry; None for targets of structures.
    in_domain
        None if the ensemble cannot tell.
    """

    target: str
    error: float
    halfwidth: float | None
    label: float
    mean: float
    origin: str
    group: str
    formula: str
    symbols: tuple[str, ...]
    positions: tuple[tuple[float, float, float], ...]
    natoms: int
    radii: tuple[float, ...]
    bonds: tuple[tuple[int, int], ...]
    cell: tuple[tuple[float, float, float], ...] = ()
    atom: int | None = None
    in_domain: bool | None = None


@dataclass(frozen=True)
class SplitErrors:
    """One dataset. ``left_out`` counts the groups without a row, by what they group."""

    groups: tuple[GroupErrors, ...]
    domain: tuple[GroupDomain, ...]
    worst: tuple[DrawnStructure, ...]
    left_out: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class EnsembleErrors:
    """Content of ``test_errors.json``: the errors of each dataset."""

    schema_version: int
    datasets: dict[str, SplitErrors]
