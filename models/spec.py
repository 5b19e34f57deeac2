"""The description of a potential: plain numbers and names, so that JSON and checkpoints can hold it."""

from __future__ import annotations

from dataclasses import dataclass, field

from gfm_pipeline.core.contracts.properties.attributes import Attribute, conditioned
from gfm_pipeline.core.contracts.targets import DEFAULT, ENERGY, Origin, Rank, Target
from gfm_pipeline.core.contracts.training import ForceHead, ModelSettings

__all__ = ["ForceHead", "ModelSpec"]


@dataclass(frozen=True)
class ModelSpec(ModelSettings):
    """Everything `Potential` needs: the settings of a model, and facts of its training data. All fields are JSON-able.

    Parameters
    ----------
    n_datasets
        Number of dataset heads of the readout.
    avg_neighbours
        Mean number of neighbours an atom has in the training data; sums are divided by its square root.
    avg_log_degree
        Mean of log(1 + number of neighbours), the degree unit of PNA.
    force_rms
        Force unit of the readout in eV/Angstrom: E = force_rms * (1 Angstrom) * sum of node outputs.
    targets
        The predicted targets.
    target_scales
        Unit of the readout of each target other than energy and forces, by name; 1 without an entry.
    dataset_units
        Unit of the readout of each target in each dataset, by name, since datasets differ by a factor of ten and more.
        For targets without an entry it is `scale` in all datasets, as in models described before 2026-12.
    balanced_forces
        Whether direct forces have no net force and, in structures without periodicity, no net torque. Models described
        before 2026-11-30 lack this.
    unstated
        Attributes of ``condition_on`` for which a missing value differs from every stated value. A missing multiplicity
        always does. Models described before 2026-12 treat a missing charge as 0.
    attributes
        Graph attributes of the training data, in addition to total charge and spin multiplicity.
    attribute_scales
        Unit of the difference of an attribute from its neutral value, by name; 1 without an entry.
    elements
        Atomic numbers of the training data; predictions refuse others. Empty: not known, as in models described before
        2026-11-30.
    """

    n_datasets: int = 1
    avg_neighbours: float = 12.0
    avg_log_degree: float = 2.5
    force_rms: float = 1.0
    targets: tuple[Target, ...] = DEFAULT
    target_scales: dict[str, float] = field(default_factory=dict)
    dataset_units: dict[str, tuple[float, ...]] = field(default_factory=dict)
    balanced_forces: bool = False
    elements: tuple[int, ...] = ()
    unstated: tuple[str, ...] = ()
    attributes: tuple[Attribute, ...] = ()
    attribute_scales: dict[str, float] = field(default_factory=dict)

    @property
    def conditioned_on(self) -> tuple[Attribute, ...]:
        """The attributes that the model is told of; raises `Refused` when one is not declared."""
        return conditioned(self.condition_on, self.attributes)

    def has_head(self, target: Target) -> bool:
        """Return whether a target has its own head; other targets are derivatives of the energy."""
        if target.origin is Origin.GRADIENT:
            return self.force_head is ForceHead.DIRECT
        return target.origin is Origin.HEAD

    def ranks(self) -> set[Rank]:
        """Return the ranks of the features that the heads read."""
        return {target.rank for target in self.targets if self.has_head(target)}

    @property
    def reads_vectors(self) -> bool:
        """Whether a head reads vector features; algorithms with vectors return them only then."""
        return Rank.VECTOR in self.ranks()

    def scale(self, target: Target) -> float:
        """Return the unit of the readout of a target."""
        if target.name == ENERGY.name or target.origin is Origin.GRADIENT:
            return self.force_rms
        return self.target_scales.get(target.name, 1.0)
