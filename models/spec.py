"""What a potential is built from: plain numbers and names, so that it survives JSON and checkpoints."""

from __future__ import annotations

from dataclasses import dataclass, field

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
        What is predicted.
    target_scales
        Unit of the readout of each target beside energy and forces, by name; 1 where none is given.
    dataset_units
        Unit of the readout of each target in each dataset, by name: datasets differ in it by a factor of ten and more.
        Of targets that are not named it is `scale`, for all datasets: as in models described before 2026-12.
    balanced_forces
        Direct forces have no net force and, of structures that are not periodic, no net torque. Models that were
        described before 2026-11-30 know nothing of it.
    unstated
        Attributes of ``condition_on`` that models tell apart from any value where a structure does not say them. A
        multiplicity always is; models that were described before 2026-12 take a charge that is not said for 0.
    elements
        Atomic numbers of the training data: others are refused when predicting. Empty: not known, as of models that
        were described before 2026-11-30.
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

    def has_head(self, target: Target) -> bool:
        """Return whether a target has a head of its own; others are derivatives of the energy."""
        if target.origin is Origin.GRADIENT:
            return self.force_head is ForceHead.DIRECT
        return target.origin is Origin.HEAD

    def ranks(self) -> set[Rank]:
        """Return the ranks of the features that the heads read."""
        return {target.rank for target in self.targets if self.has_head(target)}

    @property
    def reads_vectors(self) -> bool:
        """Whether a head reads vector features: an algorithm that has them returns them then."""
        return Rank.VECTOR in self.ranks()

    def scale(self, target: Target) -> float:
        """Return the unit of the readout of a target."""
        if target.name == ENERGY.name or target.origin is Origin.GRADIENT:
            return self.force_rms
        return self.target_scales.get(target.name, 1.0)
