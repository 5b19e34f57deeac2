"""The properties that a model predicts: built-in ones, and ones that other packages or workflows add.

A target is one declared record. Records of data, datasets, batches, heads, losses, validation, calibration, reports and
the calculator loop over targets, and none of them names a target unless physics makes it special. A package adds a
target by an entry point of the group ``gfm_pipeline.targets``. Users write the name of the entry point under
``targets`` in a workflow; its value names a `Target`. A workflow may also declare a target itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from gfm_pipeline.core.contracts.extensions import Extensions
from gfm_pipeline.core.strenum import StrEnum

ENTRY_POINTS = "gfm_pipeline.targets"


class Level(StrEnum):
    """What has one value of a target."""

    GRAPH = "graph"  # a structure
    ATOM = "atom"


class Rank(StrEnum):
    """How a value turns when the structure is rotated."""

    SCALAR = "scalar"
    VECTOR = "vector"
    TENSOR = "tensor"  # symmetric


class Origin(StrEnum):
    """Where a prediction comes from."""

    HEAD = "head"  # a network on the features of atoms
    GRADIENT = "gradient"  # minus the gradient of the energy, or a head where a model has direct forces
    STRAIN = "strain"  # the derivative of the energy by a strain of the structure, per volume


class Reference(StrEnum):
    """What is subtracted from labels before a model learns them, and added to its predictions."""

    ELEMENTS = "elements"  # a sum over atoms of one value for each element
    MEAN = "mean"  # the mean of the training split
    NONE = "none"


class Constraint(StrEnum):
    """What predictions of the atoms of a structure obey together."""

    NONE = "none"
    TOTAL_CHARGE = "total_charge"  # they sum to the total charge of the structure


References = Mapping[str, Mapping[str, float]]  # target -> element symbol, or OF_MEAN, -> what is subtracted
# Names of columns of datasets and of keys of HydraGNN's samples; no target may have them.
_COLUMNS = (
    "atomic_numbers pos energy_per_atom cell pbc natoms graph_attr group origin degrees x y edge_index edge_attr "
    "edge_shifts chemical_composition batch ptr dataset"
)
RESERVED = frozenset(_COLUMNS.split(" "))
OF_MEAN = "mean"  # in `References`, of targets whose reference is the mean
SHAPES: dict[Rank, tuple[int, ...]] = {Rank.SCALAR: (), Rank.VECTOR: (3,), Rank.TENSOR: (3, 3)}
_OF_DATA = frozenset(("text", "keys", "shown_unit", "shown_factor"))
_LEARNED_NOTHING = {
    Reference.ELEMENTS: "reference values of the elements",
    Reference.MEAN: "the mean of the training data",
    Reference.NONE: "zero",
}


@dataclass(frozen=True)
class Target:
    """A predicted property.

    Parameters
    ----------
    name
        Its name in workflows, datasets, reports and results of calculators: letters, digits and underscores.
    unit
        Unit of its values in datasets and predictions: ``eV``, ``e*Angstrom``; empty for numbers without unit.
    text
        The target in one line.
    level, rank, origin, reference, constraint
        See there.
    extensive
        Whether the values of two structures far apart add up. For values of structures, errors are then per atom and
        predictions are sums over atoms; otherwise predictions are means over atoms.
    keys
        Its names in data, the preferred one first; empty: ``name``.
    word, title
        The words for its values in sentences and headings: ``force``, ``Force components``; empty: ``name``.
    shown_unit, shown_factor
        Unit of errors in reports, and the factor from ``unit`` (per atom for extensive values) to it; empty: ``unit``
        itself.
    weight
        Weight of its loss unless a workflow sets another.
    """

    name: str
    unit: str
    text: str
    level: Level = Level.GRAPH
    rank: Rank = Rank.SCALAR
    origin: Origin = Origin.HEAD
    extensive: bool = False
    reference: Reference = Reference.NONE
    constraint: Constraint = Constraint.NONE
    keys: tuple[str, ...] = ()
    word: str = ""
    title: str = ""
    shown_unit: str = ""
    shown_factor: float = 1.0
    weight: float = 1.0

    @property
    def names(self) -> tuple[str, ...]:
        """Its names in data, the preferred one first."""
        return self.keys or (self.name,)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one value."""
        return SHAPES[self.rank]

    @property
    def per_atom(self) -> bool:
        """Whether errors are divided by the number of atoms."""
        return self.extensive and self.level is Level.GRAPH

    @property
    def error_unit(self) -> str:
        """Unit of errors: per atom for extensive values of structures."""
        return f"{self.unit}/atom" if self.per_atom else self.unit

    @property
    def printed_unit(self) -> str:
        """Unit of errors in reports."""
        return self.shown_unit or typeset(self.error_unit)

    @property
    def label(self) -> str:
        """Name and unit of errors, for rows and columns of tables."""
        return ", ".join(part for part in (self.name, self.printed_unit) if part)

    @property
    def noun(self) -> str:
        """The word for its values in sentences."""
        return self.word or self.name

    @property
    def heading(self) -> str:
        """The words for its values in headings."""
        return self.title or self.name

    def learned(self) -> dict[str, Any]:
        """Return the fields on which trained models depend, as plain data: not its names in data, nor its printing."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _OF_DATA}

    @property
    def learned_nothing(self) -> str:
        """The prediction of a model that learned nothing."""
        return _LEARNED_NOTHING[self.reference]


def typeset(unit: str) -> str:
    """Return a unit as reports print it."""
    return unit.replace("Angstrom", "Å").replace("^3", "³")


ENERGY = Target(
    "energy",
    "eV",
    "potential energy",
    extensive=True,
    reference=Reference.ELEMENTS,
    title="Energy per atom",
    shown_unit="meV/atom",
    shown_factor=1000.0,
)
FORCES = Target(
    "forces",
    "eV/Angstrom",
    "forces on atoms",
    Level.ATOM,
    Rank.VECTOR,
    Origin.GRADIENT,
    extensive=True,
    word="force",
    title="Force components",
    shown_unit="meV/Å",
    shown_factor=1000.0,
    weight=10.0,
)
STRESS = Target(
    "stress",
    "eV/Angstrom^3",
    "stress, positive where the structure is stretched (as ASE has it)",
    Level.GRAPH,
    Rank.TENSOR,
    Origin.STRAIN,
    shown_unit="GPa",
    shown_factor=160.21766208,
)
DIPOLE = Target(
    "dipole",
    "e*Angstrom",
    "electric dipole moment",
    Level.GRAPH,
    Rank.VECTOR,
    extensive=True,
    keys=("dipole", "dipole_moment", "total_dipole", "dipoles", "mu"),
)
CHARGES = Target(
    "charges",
    "e",
    "partial charges of atoms, which sum to the total charge",
    Level.ATOM,
    constraint=Constraint.TOTAL_CHARGE,
    keys=(
        "charges",
        "atomic_charges",
        "partial_charges",
        "initial_charges",
        "hirshfeld_charges",
        "mulliken_charges",
        "bader_charges",
    ),
)
MAGMOMS = Target(
    "magmoms",
    "mu_B",
    "magnetic moments of atoms",
    Level.ATOM,
    reference=Reference.ELEMENTS,
    keys=("magmoms", "magmom", "magnetic_moments"),
)
BAND_GAP = Target(
    "band_gap",
    "eV",
    "energy between the highest occupied and the lowest empty state",
    reference=Reference.MEAN,
    keys=("band_gap", "bandgap", "gap", "homo_lumo_gap"),
)

DEFAULT = (ENERGY, FORCES)  # for workflows that name none, and for all records from before targets were declared


TARGETS = Extensions(
    "target",
    ENTRY_POINTS,
    Target,
    {t.name: t for t in (ENERGY, FORCES, STRESS, DIPOLE, CHARGES, MAGMOMS, BAND_GAP)},
)


def is_default(target: Target) -> bool:
    """Return whether every dataset has a target: energy and forces."""
    return target.name in {one.name for one in DEFAULT}


def order_of(target: Target) -> tuple[int, str]:
    """Return the sort key of a target: those of `DEFAULT` come first, the others by name."""
    names = [one.name for one in DEFAULT]
    return (names.index(target.name) if target.name in names else len(names), target.name)
