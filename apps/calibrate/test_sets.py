"""Named test sets, judged with the weights and the calibration of the dataset whose branch predicts them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gfm_pipeline.apps.calibrate.aggregate import aggregate
from gfm_pipeline.apps.calibrate.differences import judge_difference
from gfm_pipeline.apps.calibrate.evaluate import UNLABELLED, figure_data, judge
from gfm_pipeline.apps.calibrate.split_errors import SplitStructures, split_errors
from gfm_pipeline.apps.calibrate.uncertainty import UncertaintyMeasure, measured
from gfm_pipeline.apps.calibrate.weights import effective_members
from gfm_pipeline.apps.dataset import Dataset
from gfm_pipeline.core.contracts.accuracy.split_errors import SplitErrors
from gfm_pipeline.core.contracts.data import Split
from gfm_pipeline.core.contracts.evaluation import (
    CalibrateSpec,
    DatasetCalibration,
    DatasetReport,
    DomainReport,
    figure_key,
)
from gfm_pipeline.core.contracts.policies import UNCERTAINTIES, make_policy
from gfm_pipeline.core.contracts.targets import Target


@dataclass(frozen=True)
class JudgedSet:
    """Results on a test set: the report, the arrays for figures, and the errors of groups."""

    report: DatasetReport
    figures: dict[str, NDArray[np.float64]]
    errors: SplitErrors


def judge_test_set(
    spec: CalibrateSpec, dataset: Dataset, calibration: DatasetCalibration, targets: Sequence[Target]
) -> JudgedSet:
    """Return the results of the ensemble on a test set.

    Parameters
    ----------
    spec
        Request of the calibration, whose members have predicted the test set.
    dataset
        The test set.
    calibration
        That of the dataset whose branch predicts it.
    targets
        All targets of the models.
    """
    statistics = dataset.statistics
    shares = np.array([calibration.weights[member.name] for member in spec.members], dtype=np.float64)
    measure = make_policy(UNCERTAINTIES, spec.uncertainty, UncertaintyMeasure)
    test = measured(aggregate(spec.members, statistics.name, Split.TEST, targets), measure, targets, shares)
    domain = None
    outside = None if calibration.domain is None else test.outside(shares, calibration.domain)
    if calibration.domain is not None and outside is not None:
        domain = DomainReport(calibration.domain.false_alarms, float(np.mean(outside)))
        test = test.placed(shares, calibration.domain)
    reports, figures = {}, {}
    for target, found in test.targets.items():
        of_target = calibration.of(target)
        if of_target is None or not len(found.label):
            reports[target] = UNLABELLED
            continue
        reports[target] = judge(found, of_target, statistics.null_mae(target, Split.TEST))
        for key, value in figure_data(found, of_target, spec.seed).items():
            figures[figure_key(statistics.name, target, key)] = value
    difference = calibration.difference
    report = DatasetReport(
        reports.pop("energy", UNLABELLED),
        reports.pop("forces", UNLABELLED),
        test.n_structures,
        calibration.weights,
        effective_members(shares),
        reports,
        {target.name: target for target in targets if target.name in reports},
        domain,
        None if difference is None else judge_difference(difference, test, shares),
    )
    return JudgedSet(report, figures, split_errors(SplitStructures.read(dataset), test, calibration, shares))
