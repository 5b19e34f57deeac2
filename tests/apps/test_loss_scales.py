"""What the errors of each dataset weigh in a common loss."""

from __future__ import annotations

import numpy as np
import pytest

from gfm_pipeline.apps.train.loss_scales import dataset_units, dataset_weights, loss_scales
from gfm_pipeline.core.contracts.data import Split
from gfm_pipeline.core.contracts.dataset_statistics import DatasetStatistics, TargetStatistics
from gfm_pipeline.core.contracts.targets import DEFAULT, STRESS

TARGETS = (*DEFAULT, STRESS)
WEIGHTS = {"energy": 1.0, "forces": 10.0, "stress": 1.0}


def facts(
    force_rms: float, energy_std: float, stress: float = 0.0, structures: int = 10, atoms: int = 10
) -> DatasetStatistics:
    count, atom_count = {str(Split.TRAIN): structures}, {str(Split.TRAIN): structures * atoms}
    known = TargetStatistics(STRESS, count if stress else {str(Split.TRAIN): 0}, {}, stress, {})
    return DatasetStatistics(
        "d", count, atom_count, count, ("H",), {"H": 0.0}, 1, "fit", force_rms, energy_std, {}, {}, 2, 0, {},
        targets={"stress": known},
    )  # fmt: skip


def test_each_dataset_is_heard_as_its_share_of_the_draws_whatever_its_labels_and_the_size_of_its_structures():
    """The mean over all labels of a batch is the mean of the losses that datasets have alone, times their factors."""
    mixed = [facts(2.0, 0.1, atoms=20), facts(0.0, 0.05, structures=50), facts(1.0, 0.2, stress=0.03, atoms=5)]
    draws, shares = np.array([1.0, 2.0, 3.0]), np.array([12 / 11, 12.0, 1.0])
    assert dataset_weights(TARGETS, WEIGHTS, mixed) == pytest.approx(shares)
    scales, units = loss_scales(TARGETS, WEIGHTS, mixed, draws), dataset_units(TARGETS, mixed)
    labels = {"energy": [1, 1, 1], "forces": [20, 0, 5], "stress": [0, 0, 1]}  # of a structure of each dataset
    for name, counts in labels.items():
        in_batch = draws * counts
        influence = in_batch / in_batch.sum() / np.array(scales[name])
        alone = shares / np.array(units[name]) * (np.array(counts) > 0)
        assert influence == pytest.approx(draws / draws.sum() * alone), name


@pytest.mark.parametrize("one", [facts(2.0, 0.1), facts(0.0, 0.05)])
def test_one_dataset_keeps_its_units(one):
    assert dataset_weights(DEFAULT, WEIGHTS, [one]) == [1.0]
    assert loss_scales(DEFAULT, WEIGHTS, [one], [7.0])["energy"] == (one.force_rms or one.energy_std,)
