"""What the errors of each dataset weigh in a common loss."""

from __future__ import annotations

import pytest

from gfm_pipeline.apps.train.loss_scales import dataset_weights, loss_scales
from gfm_pipeline.core.contracts.dataset_statistics import DatasetStatistics, TargetStatistics
from gfm_pipeline.core.contracts.targets import DEFAULT, STRESS

TARGETS = (*DEFAULT, STRESS)
WEIGHTS = {"energy": 1.0, "forces": 10.0, "stress": 1.0}


def facts(force_rms: float, energy_std: float, stress: float = 0.0) -> DatasetStatistics:
    count = {"train": 10}
    known = TargetStatistics(STRESS, count if stress else {"train": 0}, {}, stress, {})
    return DatasetStatistics(
        "d", count, count, count, ("H",), {"H": 0.0}, 1, "fit", force_rms, energy_std, {}, {}, 2, 0, {},
        targets={"stress": known},
    )  # fmt: skip


def test_a_dataset_of_energies_alone_is_heard_as_loudly_as_the_others():
    """Every dataset's loss of a model that learned nothing is about the same, whatever labels it has."""
    mixed = [facts(2.0, 0.1), facts(0.0, 0.05), facts(1.0, 0.2, stress=0.03)]
    assert dataset_weights(TARGETS, WEIGHTS, mixed) == pytest.approx([12 / 11, 12.0, 1.0])
    scales = loss_scales(TARGETS, WEIGHTS, mixed)
    assert scales["energy"] == pytest.approx((2.0 * 11 / 12, 0.05 / 12, 1.0))
    assert scales["forces"][::2] == pytest.approx((2.0 * 11 / 12, 1.0))
    assert scales["stress"][2] == pytest.approx(0.03)
    sizes = [0.1, 0.05, 0.2]  # errors of nothing: the scatter of energies
    energies_alone = WEIGHTS["energy"] * sizes[1] / scales["energy"][1]
    forces = [WEIGHTS["forces"] * rms / scales["forces"][k] for k, rms in ((0, 2.0), (2, 1.0))]
    assert energies_alone == pytest.approx(12.0)
    assert forces == pytest.approx([120 / 11, 10.0])


@pytest.mark.parametrize("one", [facts(2.0, 0.1), facts(0.0, 0.05)])
def test_one_dataset_keeps_its_units(one):
    assert dataset_weights(DEFAULT, WEIGHTS, [one]) == [1.0]
    assert loss_scales(DEFAULT, WEIGHTS, [one])["energy"] == (one.force_rms or one.energy_std,)
