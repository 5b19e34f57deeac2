"""Units of the loss: the unit of each target's error in each dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from gfm_pipeline.core.contracts.data import Split
from gfm_pipeline.core.contracts.dataset_statistics import DatasetStatistics
from gfm_pipeline.core.contracts.targets import ENERGY, FORCES, Level, Target, is_default
from gfm_pipeline.core.errors import DataError


def readout_units(statistics: Sequence[DatasetStatistics]) -> list[float]:
    """Return the unit of energies and forces of each dataset (eV/Angstrom; of energies: times 1 Angstrom).

    It is the RMS of the forces. A dataset without forces has the unit of the others, so that the unit of energy is the
    same in all datasets. If no dataset has forces, it is the scatter of the energies, the only learned labels.
    """
    known = [s.force_rms for s in statistics if s.force_rms > 0]
    if known:
        shared = float(np.sqrt(np.mean(np.square(known))))
        return [s.force_rms if s.force_rms > 0 else shared for s in statistics]
    return [s.energy_std if s.energy_std > 0 else 1.0 for s in statistics]


def target_units(targets: Sequence[Target], statistics: Sequence[DatasetStatistics]) -> dict[str, tuple[float, ...]]:
    """Return the scale of each target other than energy and forces, per dataset.

    It is the RMS of the labels minus their references. A dataset without labels has that of the others.

    Raises
    ------
    DataError
        When no dataset has labels of a target.
    """
    found = {}
    for target in targets:
        if is_default(target):
            continue
        of_datasets = [s.targets[target.name].scale if target.name in s.targets else 0.0 for s in statistics]
        if not any(_labelled(s, target) for s in statistics):
            raise DataError(
                f"No dataset has labels of the target {target.name}.",
                "Leave it out of targets, or correct the names of labels of the sources.",
            )
        known = [scale for scale in of_datasets if scale > 0]
        shared = float(np.sqrt(np.mean(np.square(known)))) if known else 1.0
        found[target.name] = tuple(scale if scale > 0 else shared for scale in of_datasets)
    return found


def dataset_weights(
    targets: Sequence[Target], weights: Mapping[str, float], statistics: Sequence[DatasetStatistics]
) -> list[float]:
    """Return the factor of each dataset's loss that gives all datasets equal influence.

    A dataset without some labels, e.g. with energies alone, has fewer terms in its loss than the others, and the common
    model would hardly learn it. So the weights of its targets are scaled up to the largest sum of weights of any
    dataset. For a single dataset the factor is 1.
    """
    sums = [sum(weights[t.name] for t in targets if _labelled(s, t)) for s in statistics]
    most = max(sums, default=0.0)
    return [most / one if one > 0 else 1.0 for one in sums]


def label_factors(
    targets: Sequence[Target], statistics: Sequence[DatasetStatistics], draws: Sequence[float]
) -> dict[str, tuple[float, ...]]:
    """Return the factor of each target's loss, per dataset, that makes the common loss the mean of those of datasets.

    The loss of a target in a batch is the mean over all its labels, of whatever dataset. Without these factors, a
    dataset of large structures would have more influence on forces than its share of the draws, and a target that one
    dataset has would outweigh the other targets of that dataset. For a single dataset all factors are 1.

    Parameters
    ----------
    targets, statistics
        What is learned, and of what.
    draws
        Structures drawn of each dataset, in any unit.
    """
    shares = np.asarray(draws, dtype=np.float64) / np.sum(draws)
    found = {}
    for target in targets:
        counts = np.array([_labels_per_structure(s, target) for s in statistics])
        factors = np.divide(shares @ counts, counts, out=np.ones_like(counts), where=counts > 0)
        found[target.name] = tuple(map(float, factors))
    return found


def loss_scales(
    targets: Sequence[Target],
    weights: Mapping[str, float],
    statistics: Sequence[DatasetStatistics],
    draws: Sequence[float],
) -> dict[str, tuple[float, ...]]:
    """Return the divisor of each target's errors in the loss, per dataset.

    Parameters
    ----------
    targets
        What is learned.
    weights
        By name of a target.
    statistics
        Of each dataset.
    draws
        See `label_factors`.
    """
    shares, factors = dataset_weights(targets, weights, statistics), label_factors(targets, statistics, draws)
    ones = (1.0,) * len(statistics)
    return {
        name: tuple(
            unit / (share * factor) for unit, share, factor in zip(values, shares, factors.get(name, ones), strict=True)
        )
        for name, values in dataset_units(targets, statistics).items()
    }


def dataset_units(targets: Sequence[Target], statistics: Sequence[DatasetStatistics]) -> dict[str, tuple[float, ...]]:
    """Return the size of each target's labels minus their references, per dataset.

    It is the unit of the readout, so that heads of all datasets return numbers of about 1, and of errors in the loss.
    """
    units = readout_units(statistics)
    found = {ENERGY.name: _energy_units(units, statistics), FORCES.name: tuple(units)}
    return found | target_units(targets, statistics)


def _energy_units(units: Sequence[float], statistics: Sequence[DatasetStatistics]) -> tuple[float, ...]:
    """Return the scale of the energy in the loss per dataset; without forces, the scatter of its energies."""
    pairs = zip(units, statistics, strict=True)
    return tuple(s.energy_std if s.force_rms <= 0 and s.energy_std > 0 else unit for unit, s in pairs)


def _labelled(statistics: DatasetStatistics, target: Target) -> bool:
    """Return whether the training split has labels of a target."""
    if target.name == ENERGY.name:
        return True
    if target.name == FORCES.name:
        return statistics.force_rms > 0
    facts = statistics.targets.get(target.name)
    return facts is not None and facts.known.get(str(Split.TRAIN), sum(facts.known.values())) > 0


def _labels_per_structure(statistics: DatasetStatistics, target: Target) -> float:
    """Return the mean number of labels of a structure of the training split."""
    if not _labelled(statistics, target):
        return 0.0
    split = str(Split.TRAIN)
    structures = statistics.n_structures[split]
    facts = statistics.targets.get(target.name)
    if facts is not None and split in facts.known:
        return facts.known[split] / structures
    return statistics.n_atoms[split] / structures if target.level is Level.ATOM else 1.0
