"""The result of a training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from gfm_pipeline.core.contracts.targets import ENERGY, FORCES, Target
from gfm_pipeline.core.strenum import StrEnum


class StopReason(StrEnum):
    """Why a training ended."""

    BUDGET = "budget"  # reached the rung's number of graphs
    CONVERGED = "converged"  # its own convergence criterion was met
    LIMIT = "limit"  # hit the largest number of graphs before converging
    DIVERGED = "diverged"  # loss not finite


@dataclass(frozen=True)
class TargetError:
    """Mean absolute errors of the model and of one that learned nothing, in the unit of the target's errors.

    ``null`` is 0 when the target has no labels, or when all labels equal the predictions of such a model.
    """

    target: Target
    mae: float
    null: float

    @property
    def ratio(self) -> float | None:
        """Error divided by that of a model that learned nothing; None when the latter is 0."""
        return self.mae / self.null if self.null > 0.0 else None


@dataclass(frozen=True)
class DatasetErrors:
    """Mean absolute errors on one dataset (eV/atom, eV/Angstrom), and those of a model that learned nothing.

    ``others`` are errors of targets other than energy and forces. `by_target` returns all.
    """

    energy_mae: float
    force_mae: float
    null_energy_mae: float
    null_force_mae: float
    others: dict[str, TargetError] = field(default_factory=dict)

    @classmethod
    def of(cls, errors: Sequence[TargetError]) -> DatasetErrors:
        """Return the errors of some targets as those of a dataset; errors of missing targets are 0."""
        by_name = {error.target.name: error for error in errors}
        energy = by_name.pop(ENERGY.name, TargetError(ENERGY, 0.0, 0.0))
        forces = by_name.pop(FORCES.name, TargetError(FORCES, 0.0, 0.0))
        return cls(energy.mae, forces.mae, energy.null, forces.null, by_name)

    def by_target(self) -> tuple[TargetError, ...]:
        """Return the errors of all targets that have labels; energy and forces come first."""
        first = (
            TargetError(ENERGY, self.energy_mae, self.null_energy_mae),
            TargetError(FORCES, self.force_mae, self.null_force_mae),
        )
        return tuple(error for error in (*first, *self.others.values()) if error.null > 0.0)


@dataclass(frozen=True)
class TrainResult:
    """How a training ended.

    ``objective`` is the mean over datasets of the mean over targets of MAE / null on the validation split with EMA
    weights: 1 means nothing learned, 0 is perfect; None when diverged. For a rung it is the best of the last three
    validations, so that a single bad one decides nothing; for a training to convergence it is the last one.
    ``objective_error`` is its standard error over structures; None when diverged, and for trainings of earlier
    versions. ``errors`` are those of the last validation. ``peak_memory_gb`` is the largest memory use of the first
    rank: on its device, or of its process when it computes on a CPU.
    """

    stop_reason: StopReason
    objective: float | None
    errors: dict[str, DatasetErrors]
    graphs: int
    steps: int
    parameters: int
    seconds: float
    graphs_per_second: float
    checkpoint: str | None
    digest: str | None
    message: str = ""
    objective_error: float | None = None
    peak_memory_gb: float | None = None
