"""``python -m gfm_pipeline.apps.calibrate.fit SPEC.json``: calibrate, judge, and publish the deployable ensemble."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from gfm_pipeline.apps.calibrate.aggregate import SplitPredictions, aggregate, domain_file, predictions_file
from gfm_pipeline.apps.calibrate.card import model_card
from gfm_pipeline.apps.calibrate.differences import fit_difference
from gfm_pipeline.apps.calibrate.domain import AtomDistances, fit_thresholds
from gfm_pipeline.apps.calibrate.ensemble import domain_name
from gfm_pipeline.apps.calibrate.evaluate import UNLABELLED, evaluate, unlabelled
from gfm_pipeline.apps.calibrate.metrics import Array
from gfm_pipeline.apps.calibrate.split_errors import SplitStructures, split_errors
from gfm_pipeline.apps.calibrate.test_sets import judge_test_set
from gfm_pipeline.apps.calibrate.uncertainty import UncertaintyMeasure, measured
from gfm_pipeline.apps.calibrate.weights import effective_members, fit_weights
from gfm_pipeline.apps.dataset import Dataset
from gfm_pipeline.apps.runtime.program import Task, run_program
from gfm_pipeline.apps.train.checkpoint import CARD_FILE, WEIGHTS_FILE, ModelCard
from gfm_pipeline.core.contracts.accuracy.split_errors import SPLIT_ERRORS_FILE, EnsembleErrors, SplitErrors
from gfm_pipeline.core.contracts.data import Split
from gfm_pipeline.core.contracts.evaluation import (
    CALIBRATION_FILE,
    DATA_FILE,
    EVALUATION_FILE,
    FIGURES_FILE,
    MEMBERS_FOLDER,
    MODEL_CARD_FILE,
    CalibrateResult,
    CalibrateSpec,
    DatasetCalibration,
    DatasetReport,
    DomainCalibration,
    DomainReport,
    EnsembleCalibration,
    MemberRef,
    figure_key,
)
from gfm_pipeline.core.contracts.policies import UNCERTAINTIES, make_policy
from gfm_pipeline.core.contracts.targets import Target
from gfm_pipeline.core.errors import DataError
from gfm_pipeline.core.publish import publishing, read_manifest, storage_errors, verify, write_json, write_record
from gfm_pipeline.core.records import read_record, to_plain

PRODUCER = "gfm_pipeline.apps.calibrate.fit 4"
SCHEMA_VERSION = 1


def _check(spec: CalibrateSpec) -> None:
    names = [member.name for member in spec.members]
    if not names or len(set(names)) != len(names):
        raise DataError(f"An ensemble needs members with different names, not {names}.")
    if not 0.0 < spec.level < 1.0:
        raise DataError(f"The level of the intervals is {spec.level}; it must lie between 0 and 1.")


def _copy_member(member: MemberRef, folder: Path) -> ModelCard:
    """Publish the parts of a checkpoint needed for prediction, without the optimiser's state; return its card."""
    source = Path(member.checkpoint)
    manifest = verify(source, digests=True)
    target = folder / MEMBERS_FOLDER / member.name
    # The checkpoint's own manifest contains the time of training: with a copy, equal ensembles would differ.
    with publishing(target, manifest.producer) as place:
        for name in (CARD_FILE, WEIGHTS_FILE):
            shutil.copyfile(source / name, place / name)
    return read_record(ModelCard, target / CARD_FILE)


@dataclass(frozen=True)
class _Judged:
    """Results for one dataset: the report, the calibration, the arrays for figures, and the errors of groups."""

    report: DatasetReport
    calibration: DatasetCalibration
    figures: dict[str, NDArray[np.float64]]
    errors: SplitErrors


def _judge(spec: CalibrateSpec, dataset: Dataset, targets: Sequence[Target]) -> _Judged:
    """Fit weights, calibration and domain of one dataset on validation, and evaluate them on test."""
    statistics, name = dataset.statistics, dataset.name
    validation = aggregate(spec.members, name, Split.VALIDATION, targets)
    shares = fit_weights(validation)
    measure = make_policy(UNCERTAINTIES, spec.uncertainty, UncertaintyMeasure)
    validation = measured(validation, measure, targets, shares)
    test = measured(aggregate(spec.members, name, Split.TEST, targets), measure, targets, shares)
    training = _training(spec, name, targets)
    training = None if training is None else measured(training, measure, targets, shares)
    domain = _domain(validation, test, training, shares)
    if domain is not None:
        validation, test = (p.placed(shares, domain[0]) for p in (validation, test))
        training = None if training is None else training.placed(shares, domain[0])
    found = {
        t: evaluate(
            validation.targets[t],
            test.targets[t],
            spec.level,
            statistics.null_mae(t, Split.TEST),
            spec.seed,
            None if training is None else training.targets[t],
        )
        for t in test.targets
    }
    difference = fit_difference(validation, test, shares, spec.level, training)
    weights = {member.name: float(share) for member, share in zip(spec.members, shares, strict=True)}
    results = {target: evaluation.report for target, evaluation in found.items()}
    corrections = {target: evaluation.calibration for target, evaluation in found.items()}
    nothing = unlabelled(spec.level).calibration
    calibration = DatasetCalibration(
        corrections.pop("energy", nothing),
        corrections.pop("forces", nothing),
        statistics.elements,
        weights,
        statistics.reference_undetermined,
        corrections,
        None if domain is None else domain[0],
        None if difference is None else difference[0],
    )
    return _Judged(
        DatasetReport(
            results.pop("energy", UNLABELLED),
            results.pop("forces", UNLABELLED),
            test.n_structures,
            weights,
            effective_members(shares),
            results,
            {target.name: target for target in targets if target.name in results},
            None if domain is None else domain[1],
            None if difference is None else difference[1],
        ),
        calibration,
        {
            figure_key(name, target, key): value
            for target, evaluation in found.items()
            for key, value in evaluation.figure.items()
        },
        split_errors(SplitStructures.read(dataset), test, calibration, shares),
    )


def _training(spec: CalibrateSpec, dataset: str, targets: Sequence[Target]) -> SplitPredictions | None:
    """Return the predictions of a sample of the training split; None for members that earlier versions predicted."""
    files = [predictions_file(Path(member.predictions), dataset, Split.TRAIN) for member in spec.members]
    if not all(file.is_file() for file in files):
        return None
    return aggregate(spec.members, dataset, Split.TRAIN, targets)


def _domain(
    validation: SplitPredictions, test: SplitPredictions, training: SplitPredictions | None, shares: Array
) -> tuple[DomainCalibration, DomainReport] | None:
    """Return the thresholds of the distance, and their test results; None when distances are not known."""
    if validation.distances is None or test.distances is None or not len(validation.natoms):
        return None
    left_out = None
    if training is not None and training.distances is not None:
        left_out = AtomDistances(shares @ training.distances, training.natoms)
    found = fit_thresholds(AtomDistances(shares @ validation.distances, validation.natoms), left_out)
    if found is None:
        return None
    outside = test.outside(shares, found)
    share = 0.0 if outside is None or not len(outside) else float(np.mean(outside))
    return found, DomainReport(found.false_alarms, share)


def _copy_domains(spec: CalibrateSpec, folder: Path) -> None:
    """Copy the domains of each member."""
    for member in spec.members:
        for ref in spec.datasets:
            source = domain_file(Path(member.predictions), ref.name)
            if source.is_file():
                place = folder / domain_name(member.name, ref.name)
                place.parent.mkdir(exist_ok=True)
                with np.load(source, allow_pickle=False) as arrays:
                    tensors = {key: np.ascontiguousarray(arrays[key]) for key in arrays.files}
                save_file(tensors, place)


def _facts(dataset: Dataset) -> dict[str, Any]:
    """Return the facts of a dataset for use without the dataset: statistics, provenance and digest."""
    provenance = read_manifest(dataset.path).meta.get("provenance", {})
    return {"digest": dataset.digest, "provenance": provenance, "statistics": to_plain(dataset.statistics)}


def calibrate(spec: CalibrateSpec, task: Task) -> CalibrateResult:
    """Fit weights and calibration on validation, evaluate on test, publish the ensemble and its model card."""
    begun = time.monotonic()
    _check(spec)
    output = Path(spec.output)
    reports: dict[str, DatasetReport] = {}
    calibrations: dict[str, DatasetCalibration] = {}
    arrays: dict[str, NDArray[np.float64]] = {}
    errors: dict[str, SplitErrors] = {}
    with publishing(output, PRODUCER, {"members": [m.name for m in spec.members]}) as folder:
        cards = {member.name: _copy_member(member, folder) for member in spec.members}
        targets = next(iter(cards.values())).targets
        datasets = [Dataset.open(Path(ref.path)) for ref in spec.datasets]
        statistics = [dataset.statistics for dataset in datasets]
        opened = [Dataset.open(Path(ref.path)) for ref in spec.test_sets]
        data = {dataset.name: _facts(dataset) for dataset in (*datasets, *opened)}
        write_json(folder / DATA_FILE, data)
        for number, dataset in enumerate(datasets):
            task.check()
            task.report_progress(force=True, dataset=dataset.name, done=number, total=len(datasets))
            judged = _judge(spec, dataset, targets)
            reports[dataset.name], calibrations[dataset.name] = judged.report, judged.calibration
            arrays |= judged.figures
            errors[dataset.name] = judged.errors
        found_on: dict[str, DatasetReport] = {}
        for ref, dataset in zip(spec.test_sets, opened, strict=True):
            task.check()
            on_set = judge_test_set(spec, dataset, calibrations[ref.dataset], targets)
            found_on[ref.name], errors[ref.name] = on_set.report, on_set.errors
            arrays |= on_set.figures
        write_record(folder / SPLIT_ERRORS_FILE, EnsembleErrors(SCHEMA_VERSION, errors))
        with storage_errors(folder):
            _copy_domains(spec, folder)
        names = tuple(m.name for m in spec.members)
        found = EnsembleCalibration(SCHEMA_VERSION, spec.level, names, calibrations, spec.uncertainty)
        write_record(folder / CALIBRATION_FILE, found)
        write_json(
            folder / EVALUATION_FILE,
            {
                "schema_version": SCHEMA_VERSION,
                "level": spec.level,
                "datasets": {name: to_plain(report) for name, report in reports.items()},
                **({"test_sets": {name: to_plain(report) for name, report in found_on.items()}} if found_on else {}),
            },
        )
        with storage_errors(folder):
            np.savez_compressed(folder / FIGURES_FILE, **arrays)  # type: ignore[arg-type]  # numpy types only allow_pickle
            named = {dataset.name: (dataset.statistics, found_on[dataset.name]) for dataset in opened}
            card = model_card(cards, statistics, reports, spec.level, spec.seed, named, data)
            (folder / MODEL_CARD_FILE).write_text(card, encoding="utf-8")
    seconds = time.monotonic() - begun
    return CalibrateResult(str(output), read_manifest(output).digest, spec.level, reports, seconds, found_on)


if __name__ == "__main__":
    sys.exit(run_program(CalibrateSpec, calibrate))
