"""Mean and spread of an ensemble, from the prediction files of its members."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gfm_pipeline.apps.calibrate.domain import structure_distance
from gfm_pipeline.apps.calibrate.entries import Entries
from gfm_pipeline.apps.calibrate.metrics import Array
from gfm_pipeline.core.contracts.data import Split
from gfm_pipeline.core.contracts.evaluation import DomainCalibration, MemberRef
from gfm_pipeline.core.contracts.targets import DEFAULT, Level, Rank, Target
from gfm_pipeline.core.errors import DataError

NUMBERS_KEY = "numbers"  # atomic numbers [N]; earlier versions wrote none
RIGIDITY_KEY = "rigidity"  # of the last layer of energies, of each structure [G], see `uncertainty`
POOLED_KEY = "pooled"  # mean features of the atoms of each structure [G, H], see `differences`
DISTANCE_KEY = "distance"  # of the atoms [N] to the training split, see `gfm_pipeline.apps.calibrate.domain`
_OF_STRUCTURES = ("natoms", "group")
_FIRST = frozenset(target.name for target in DEFAULT)  # their arrays have the names of older versions


def values_key(target: str) -> str:
    """Return the name of the array of predictions of a target in a file of predictions."""
    return target if target in _FIRST else f"values.{target}"


def label_key(target: str) -> str:
    """Return the name of the array of labels of a target."""
    return f"{target}_label" if target in _FIRST else f"label.{target}"


def reference_key(target: str) -> str:
    """Return the name of the array of references [G] of a target whose values are shown without references."""
    return f"{target}_reference" if target in _FIRST else f"reference.{target}"


def spread_key(target: str) -> str:
    """Return the name of the array of spreads of a target within a member, its shallow ensemble."""
    return f"spread.{target}"


@dataclass(frozen=True)
class TargetPredictions:
    """One target of one split: n entries, K members.

    Attributes
    ----------
    label
        [n], in the unit of the target's errors.
    members
        Every member's prediction [K, n].
    mean, spread
        Mean and spread over members [n], see `mean_and_spread`; the spread is 0 with one member.
    cluster
        Index of the trajectory or family of each entry [n]; entries with the same index are dependent.
    size, distance, element, vector
        Quantities on which intervals depend, see `Entries`; None when not known.
    place
        Index of the structure, or of the atom, of each entry [n].
    of_atoms
        Whether entries belong to atoms rather than structures.
    within
        Spread within each member [K, n], of its shallow ensemble; None when not every member has one.
    """

    label: Array
    members: Array
    mean: Array
    spread: Array
    cluster: NDArray[np.int64]
    size: Array | None = None
    distance: Array | None = None
    element: NDArray[np.int64] | None = None
    vector: bool = False
    place: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    of_atoms: bool = False
    within: Array | None = None

    @property
    def entries(self) -> Entries:
        """Input of intervals."""
        return Entries(self.spread, self.mean, self.size, self.distance, self.element, vector=self.vector)

    @property
    def error(self) -> Array:
        """Mean minus label [n]."""
        return self.mean - self.label

    def weighted(self, weights: Array) -> TargetPredictions:
        """Return the same members with mean and spread by ``weights`` [K], which sum to one."""
        mean, spread = mean_and_spread(self.members, weights)
        return replace(self, mean=mean, spread=spread)


@dataclass(frozen=True)
class SplitPredictions:
    """Predictions of one split of one dataset, by name of a target.

    Extensive values of structures are per atom, relative to the references of elements. Vectors and tensors are their
    components, end to end. ``natoms`` [G] counts atoms. ``distances`` [K, N] are distances of atoms to the training
    split in the features of each member, None for predictions of versions without them. ``numbers`` [N] are atomic
    numbers, ``pooled`` the mean features of structures [G, H] of each member, and ``rigidity`` [K, G] of its last
    layer; None likewise.
    """

    targets: Mapping[str, TargetPredictions]
    n_structures: int
    natoms: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    distances: Array | None = None
    numbers: NDArray[np.int64] | None = None
    pooled: tuple[Array, ...] | None = None
    rigidity: Array | None = None

    def weighted(self, weights: Array) -> SplitPredictions:
        """Return the same members with mean and spread by ``weights`` [K], which sum to one."""
        return replace(self, targets={name: found.weighted(weights) for name, found in self.targets.items()})

    def outside(self, weights: Array, domain: DomainCalibration) -> NDArray[np.bool_] | None:
        """Return whether each structure [G] is out of domain; None when distances are not known."""
        if self.distances is None:
            return None
        return np.asarray(structure_distance(domain, weights @ self.distances, self.natoms) > 1.0)

    def placed(self, weights: Array, domain: DomainCalibration) -> SplitPredictions:
        """Add the distance of each entry to the training data, in units of the threshold.

        The distance of an atom is the mean over members weighted by ``weights`` [K]; that of a structure is
        `structure_distance`.
        """
        if self.distances is None:
            return self
        distance = np.asarray(weights @ self.distances, dtype=np.float64)
        of_structures = structure_distance(domain, distance, self.natoms)
        distance = distance / domain.threshold
        return replace(
            self,
            targets={
                name: replace(found, distance=(distance if found.of_atoms else of_structures)[found.place])
                for name, found in self.targets.items()
            },
        )


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
    """Return the path of a member's predictions of one split."""
    return folder / f"{dataset}-{split}.npz"


def domain_file(folder: Path, dataset: str) -> Path:
    """Return the path of a member's `Domain` of the training split of a dataset."""
    return folder / f"{dataset}-domain.npz"


def _read(path: Path, targets: Iterable[str]) -> dict[str, NDArray[np.generic]]:
    if not path.is_file():
        raise DataError(f"{path} is missing, so the member cannot be part of the ensemble.", "Run its predictions.")
    with np.load(path, allow_pickle=False) as file:
        content = {key: file[key] for key in file.files}
    required = {*_OF_STRUCTURES, *(key(name) for name in targets for key in (values_key, label_key))}
    if missing := required - content.keys():
        raise DataError(f"{path} lacks {', '.join(sorted(missing))}.", "Predict that member again.")
    return content


def aggregate(
    members: Sequence[MemberRef], dataset: str, split: Split, targets: Sequence[Target] = DEFAULT
) -> SplitPredictions:
    """Join the members' predictions of one split of one dataset; entries without a label are left out.

    Raises
    ------
    DataError
        When a file is missing, is not finite, or its labels differ from those of the first member.
    """
    if not members:
        raise DataError("An ensemble needs at least one member.")
    content = []
    for member in members:
        path = predictions_file(Path(member.predictions), dataset, split)
        content.append(_read(path, [target.name for target in targets]))
        for key in (*_OF_STRUCTURES, *(label_key(target.name) for target in targets)):
            if not np.array_equal(content[0][key], content[-1][key], equal_nan=True):
                raise DataError(
                    f"{path} has another {key} than {members[0].name}'s file: their datasets differ.",
                    "Predict every member on the same dataset.",
                )
    far = [one.get(DISTANCE_KEY) for one in content]
    distances = None if any(one is None for one in far) else np.stack(far).astype(np.float64)  # type: ignore[arg-type]
    natoms = content[0]["natoms"].astype(np.int64)
    numbers = content[0].get(NUMBERS_KEY)
    pooled = tuple(one[POOLED_KEY].astype(np.float64) for one in content if POOLED_KEY in one)
    rigid = [one[RIGIDITY_KEY] for one in content if RIGIDITY_KEY in one]
    return SplitPredictions(
        {t.name: _joined(content, t) for t in targets},
        len(natoms),
        natoms,
        distances,
        None if numbers is None else numbers.astype(np.int64),
        pooled if len(pooled) == len(content) else None,
        np.stack(rigid).astype(np.float64) if len(rigid) == len(content) else None,
    )


def _joined(content: Sequence[Mapping[str, NDArray[np.generic]]], target: Target) -> TargetPredictions:
    """Return one target of all members, with the components of vectors and tensors end to end."""
    natoms, group = (content[0][key].astype(np.int64) for key in _OF_STRUCTURES)
    label = content[0][label_key(target.name)].astype(np.float64)
    members = np.stack([one[values_key(target.name)] for one in content]).astype(np.float64)
    # Relative to the references, so that figures show the learned part; differences are the same.
    zero = content[0].get(reference_key(target.name))
    if zero is not None:
        label, members = label - zero.astype(np.float64), members - zero.astype(np.float64)
    if target.per_atom:
        sizes = natoms.reshape(-1, *(1 for _ in target.shape))
        label, members = label / sizes, members / sizes
    of_atoms = target.level is Level.ATOM
    structures = np.repeat(np.arange(len(natoms)), natoms) if of_atoms else np.arange(len(natoms))
    within = _within(content, target, natoms)
    components = int(np.prod(target.shape, dtype=np.int64))
    known = np.repeat(np.isfinite(label).reshape(len(label), -1).all(1), components)
    members = members.reshape(len(members), -1)[:, known]
    if not np.isfinite(members).all():
        raise DataError("A member predicts values that are not finite.", "Leave that member out of the ensemble.")
    mean, spread = mean_and_spread(members)

    def entries(values: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.repeat(values, components)[known]

    numbers = content[0].get(NUMBERS_KEY) if of_atoms else None
    return TargetPredictions(
        label.reshape(-1)[known],
        members,
        mean,
        spread,
        entries(group[structures]),
        size=entries(natoms[structures]).astype(np.float64),
        element=None if numbers is None else entries(numbers.astype(np.int64)),
        vector=target.rank is Rank.VECTOR,
        place=entries(np.arange(len(structures))),
        of_atoms=of_atoms,
        within=None if within is None else within[:, known],
    )


def _within(
    content: Sequence[Mapping[str, NDArray[np.generic]]], target: Target, natoms: NDArray[np.int64]
) -> Array | None:
    """Return the spread within each member [K, ...], per atom where the target is; None if a member has none."""
    found = [one[spread_key(target.name)].astype(np.float64) for one in content if spread_key(target.name) in one]
    if len(found) < len(content):
        return None
    spread = np.stack(found)
    if target.per_atom:
        spread = spread / natoms.reshape(-1, *(1 for _ in target.shape))
    return spread.reshape(len(spread), -1)
