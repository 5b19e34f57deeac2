"""Mean and spread of an ensemble, from the prediction files of its members."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gfm_pipeline.apps.calibrate.metrics import Array
from gfm_pipeline.core.contracts.data import Split
from gfm_pipeline.core.contracts.evaluation import MemberRef
from gfm_pipeline.core.errors import DataError

_LABELS = ("natoms", "group", "energy_label", "forces_label", "energy_reference")  # equal in every member's file


@dataclass(frozen=True)
class QuantityPredictions:
    """One quantity of one split: n entries, K members.

    Attributes
    ----------
    label
        [n], eV/atom or eV/Angstrom.
    members
        Every member's prediction [K, n].
    mean, spread
        Over members [n], see `mean_and_spread`; the spread is 0 with one member.
    cluster
        Index of the trajectory or family of each entry [n]: entries of one are dependent.
    """

    label: Array
    members: Array
    mean: Array
    spread: Array
    cluster: NDArray[np.int64]

    @property
    def error(self) -> Array:
        """Mean minus label [n]."""
        return self.mean - self.label

    def weighted(self, weights: Array) -> QuantityPredictions:
        """Return the same members with mean and spread by ``weights`` [K], which sum to one."""
        mean, spread = mean_and_spread(self.members, weights)
        return replace(self, mean=mean, spread=spread)


@dataclass(frozen=True)
class SplitPredictions:
    """Energies per atom, relative to the references [G], and force components [3 N] of one split of one dataset."""

    energy: QuantityPredictions
    forces: QuantityPredictions
    n_structures: int

    def weighted(self, weights: Array) -> SplitPredictions:
        """Return the same members with mean and spread by ``weights`` [K], which sum to one."""
        return replace(self, energy=self.energy.weighted(weights), forces=self.forces.weighted(weights))


def mean_and_spread(members: Array, weights: Array | None = None) -> tuple[Array, Array]:
    """Return mean m and sample standard deviation over the first axis; a single member has spread 0.

    With ``weights`` w [K] (not negative, sum 1; None: equal) the variance is sum w (x - m)^2 / (1 - sum w^2), unbiased
    for weights that do not depend on the values ("reliability weights"). Equal ones give exactly ``ddof=1``.
    """
    if weights is None or bool(np.all(weights == weights[0])):
        spread = members.std(axis=0, ddof=1) if len(members) > 1 else np.zeros(members.shape[1:])
        return members.mean(axis=0), spread
    mean = np.asarray(np.tensordot(weights, members, 1), dtype=np.float64)
    freedom = 1.0 - float(weights @ weights)
    if np.count_nonzero(weights) < 2 or freedom <= 0.0:
        return mean, np.zeros_like(mean)
    return mean, np.sqrt(np.tensordot(weights, np.square(members - mean), 1) / freedom)


def predictions_file(folder: Path, dataset: str, split: Split) -> Path:
    """Return the place of a member's predictions of one split."""
    return folder / f"{dataset}-{split}.npz"


def _read(path: Path) -> dict[str, NDArray[np.generic]]:
    if not path.is_file():
        raise DataError(f"{path} is missing, so the member cannot be part of the ensemble.", "Run its predictions.")
    with np.load(path, allow_pickle=False) as file:
        content = {key: file[key] for key in file.files}
    if missing := {"energy", "forces", *_LABELS} - content.keys():
        raise DataError(f"{path} lacks {', '.join(sorted(missing))}.", "Predict that member again.")
    return content


def _quantity(label: Array, members: Array, cluster: NDArray[np.int64]) -> QuantityPredictions:
    known = np.isfinite(label)
    members = members[:, known]
    if not np.isfinite(members).all():
        raise DataError("A member predicts values that are not finite.", "Leave that member out of the ensemble.")
    mean, spread = mean_and_spread(members)
    return QuantityPredictions(label[known], members, mean, spread, cluster[known])


def aggregate(members: Sequence[MemberRef], dataset: str, split: Split) -> SplitPredictions:
    """Join the members' predictions of one split of one dataset; entries without a label are left out.

    Raises
    ------
    DataError
        When a file is missing, holds other labels than the first member's, or is not finite.
    """
    if not members:
        raise DataError("An ensemble needs at least one member.")
    content = []
    for member in members:
        path = predictions_file(Path(member.predictions), dataset, split)
        content.append(_read(path))
        for key in _LABELS:
            if not np.array_equal(content[0][key], content[-1][key], equal_nan=True):
                raise DataError(
                    f"{path} has another {key} than {members[0].name}'s file: their datasets differ.",
                    "Predict every member on the same dataset.",
                )
    first = content[0]
    natoms = first["natoms"].astype(np.int64)
    group = first["group"].astype(np.int64)
    # Relative to the references, so that figures show what was learned; differences are the same.
    zero = first["energy_reference"].astype(np.float64)
    energy = (np.stack([one["energy"] for one in content]).astype(np.float64) - zero) / natoms
    forces = np.stack([one["forces"].reshape(-1) for one in content]).astype(np.float64)
    return SplitPredictions(
        energy=_quantity((first["energy_label"].astype(np.float64) - zero) / natoms, energy, group),
        forces=_quantity(first["forces_label"].astype(np.float64).reshape(-1), forces, np.repeat(group, 3 * natoms)),
        n_structures=len(natoms),
    )
