"""Statistics of a published dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from gfm_pipeline.core.contracts.properties.attributes import Attribute
from gfm_pipeline.core.contracts.targets import ENERGY, FORCES, References, Target


@dataclass(frozen=True)
class NeighbourStatistics:
    """Neighbours of the atoms of the training split within ``cutoff`` (Angstrom).

    ``mean_log`` is the mean of log(d + 1), the degree scale of PNA; ``isolated`` counts atoms without any.
    """

    cutoff: float
    mean: float
    mean_log: float
    minimum: int
    maximum: int
    isolated: int


@dataclass(frozen=True)
class TargetStatistics:
    """Statistics of a target besides energy and forces, or of a declared graph attribute.

    Attributes
    ----------
    target
        Its declaration.
    known
        Split to labels that are known: structures, or atoms.
    reference
        The subtracted values, see `gfm_pipeline.core.contracts.targets.References`; fitted on the training split.
    scale
        RMS of the labels of the training split minus references, per atom of extensive values of structures.
    null
        Split to the mean absolute error of a model that learned nothing.
    attribute
        The declared graph attribute, an input of models; None: a target.
    """

    target: Target
    known: dict[str, int]
    reference: dict[str, float]
    scale: float
    null: dict[str, float]
    attribute: Attribute | None = None


@dataclass(frozen=True)
class DatasetStatistics:
    """Facts of a dataset; energies are per structure, after conversion of units.

    ``reference`` maps element symbol to reference energy (eV), fitted by least squares on the training split only,
    unless isolated-atom energies were given or found. ``reference_undetermined`` [D][S] are directions in the space of
    compositions, over ``elements``, that the references leave undetermined. ``reference_prior`` names the table that
    supplies this part. Both are empty when everything is determined. ``null_energy_mae`` (eV/atom) and
    ``null_force_mae`` (eV/Angstrom) are the errors on each split of a model that learned nothing and predicts reference
    energies and zero forces.
    """

    name: str
    n_structures: dict[str, int]  # split -> count
    n_atoms: dict[str, int]
    n_groups: dict[str, int]
    elements: tuple[str, ...]
    reference: dict[str, float]
    reference_rank: int
    reference_from: str  # "fit" or "isolated atoms"
    force_rms: float  # training split, eV/Angstrom
    energy_std: float  # training split, after references, eV/atom
    null_energy_mae: dict[str, float]
    null_force_mae: dict[str, float]
    max_atoms: int
    n_quarantined: int
    reasons: dict[str, int]
    energy_mean: float = 0.0  # training split, after references, eV/atom: not 0 with isolated-atom energies
    reference_residual: float | None = None  # training split, RMS of energy minus references, eV/atom
    neighbours: tuple[NeighbourStatistics, ...] = ()  # training split, by cutoff
    warnings: tuple[str, ...] = ()  # possible faults of the records that were kept
    reference_undetermined: tuple[tuple[float, ...], ...] = ()
    reference_prior: str = ""
    targets: dict[str, TargetStatistics] = field(default_factory=dict)  # besides energy and forces; and attributes

    @property
    def attributes(self) -> tuple[Attribute, ...]:
        """The declared graph attributes, besides total charge and spin multiplicity."""
        return tuple(facts.attribute for facts in self.targets.values() if facts.attribute is not None)

    def with_attributes(self, attributes: Sequence[Attribute]) -> DatasetStatistics:
        """Return these statistics with the columns of ``attributes`` marked as such."""
        marked = {one.name: replace(self.targets[one.name], attribute=one) for one in attributes}
        return replace(self, targets={**self.targets, **marked})

    @property
    def references(self) -> References:
        """Values to subtract from the labels of each target."""
        return {ENERGY.name: self.reference, **{name: facts.reference for name, facts in self.targets.items()}}

    def null_mae(self, target: str, split: str) -> float:
        """Return the error on a split of a model that learned nothing; 0 where it is not known."""
        known = {ENERGY.name: self.null_energy_mae, FORCES.name: self.null_force_mae}
        known |= {name: facts.null for name, facts in self.targets.items()}
        return known.get(target, {}).get(split, 0.0)
