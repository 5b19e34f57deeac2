"""``python -m gfm_pipeline.apps.calibrate.fit SPEC.json``: calibrate, judge, and publish the deployable ensemble."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gfm_pipeline.apps.calibrate.aggregate import SplitPredictions, aggregate
from gfm_pipeline.apps.calibrate.card import model_card
from gfm_pipeline.apps.calibrate.evaluate import UNLABELLED, QuantityEvaluation, evaluate, unlabelled
from gfm_pipeline.apps.calibrate.metrics import Array
from gfm_pipeline.apps.calibrate.weights import effective_members, fit_weights
from gfm_pipeline.apps.dataset import Dataset
from gfm_pipeline.apps.runtime.program import Task, run_program
from gfm_pipeline.apps.train.checkpoint import CARD_FILE, WEIGHTS_FILE, ModelCard
from gfm_pipeline.core.contracts.data import DatasetStatistics, Split
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
    EnsembleCalibration,
    MemberRef,
    QuantityCalibration,
    figure_key,
)
from gfm_pipeline.core.contracts.targets import Target
from gfm_pipeline.core.errors import DataError
from gfm_pipeline.core.publish import publishing, read_manifest, storage_errors, verify, write_json, write_record
from gfm_pipeline.core.records import read_record, to_plain

PRODUCER = "gfm_pipeline.apps.calibrate.fit 2"
SCHEMA_VERSION = 1


def _check(spec: CalibrateSpec) -> None:
    names = [member.name for member in spec.members]
    if not names or len(set(names)) != len(names):
        raise DataError(f"An ensemble needs members with different names, not {names}.")
    if not 0.0 < spec.level < 1.0:
        raise DataError(f"The level of the intervals is {spec.level}; it must lie between 0 and 1.")


def _copy_member(member: MemberRef, folder: Path) -> ModelCard:
    """Publish what predicting needs of a checkpoint, without the optimiser's state, and return its card."""
    source = Path(member.checkpoint)
    manifest = verify(source, digests=True)
    target = folder / MEMBERS_FOLDER / member.name
    # The checkpoint's own manifest tells how long training took: copied, equal ensembles would differ.
    with publishing(target, manifest.producer) as place:
        for name in (CARD_FILE, WEIGHTS_FILE):
            shutil.copyfile(source / name, place / name)
    return read_record(ModelCard, target / CARD_FILE)


def _evaluate(
    members: tuple[MemberRef, ...], statistics: DatasetStatistics, targets: Sequence[Target], level: float, seed: int
) -> tuple[dict[str, QuantityEvaluation], SplitPredictions, Array]:
    """Return the evaluation of each target, the test split's predictions, and the members' weights [K]."""
    validation = aggregate(members, statistics.name, Split.VALIDATION, targets)
    weights = fit_weights(validation)
    validation = validation.weighted(weights)
    test = aggregate(members, statistics.name, Split.TEST, targets).weighted(weights)
    found = {
        name: evaluate(validation.targets[name], test.targets[name], level, statistics.null_mae(name, Split.TEST), seed)
        for name in test.targets
    }
    return found, test, weights


def _facts(dataset: Dataset) -> dict[str, Any]:
    """Return what is to be known of a dataset where it is not at hand: statistics, provenance and digest."""
    provenance = read_manifest(dataset.path).meta.get("provenance", {})
    return {"digest": dataset.digest, "provenance": provenance, "statistics": to_plain(dataset.statistics)}


def _calibration(found: QuantityEvaluation) -> QuantityCalibration:
    c = found.calibration
    return QuantityCalibration(c.scale, c.floor, c.quantile, c.level, c.n, c.guaranteed)


def calibrate(spec: CalibrateSpec, task: Task) -> CalibrateResult:
    """Fit weights and calibration on validation, judge on test, publish the ensemble and its model card."""
    begun = time.monotonic()
    _check(spec)
    output = Path(spec.output)
    reports: dict[str, DatasetReport] = {}
    calibrations: dict[str, DatasetCalibration] = {}
    arrays: dict[str, NDArray[np.float64]] = {}
    with publishing(output, PRODUCER, {"members": [m.name for m in spec.members]}) as folder:
        cards = {member.name: _copy_member(member, folder) for member in spec.members}
        targets = next(iter(cards.values())).targets
        datasets = [Dataset.open(Path(ref.path)) for ref in spec.datasets]
        statistics = [dataset.statistics for dataset in datasets]
        write_json(folder / DATA_FILE, {dataset.name: _facts(dataset) for dataset in datasets})
        for number, facts in enumerate(statistics):
            task.check()
            task.report_progress(force=True, dataset=facts.name, done=number, total=len(statistics))
            found, test, shares = _evaluate(spec.members, facts, targets, spec.level, spec.seed)
            weights = {member.name: float(share) for member, share in zip(spec.members, shares, strict=True)}
            results = {name: evaluation.report for name, evaluation in found.items()}
            corrections = {name: _calibration(evaluation) for name, evaluation in found.items()}
            reports[facts.name] = DatasetReport(
                results.pop("energy", UNLABELLED),
                results.pop("forces", UNLABELLED),
                test.n_structures,
                weights,
                effective_members(shares),
                results,
                {target.name: target for target in targets if target.name in results},
            )
            nothing = _calibration(unlabelled(spec.level))
            calibrations[facts.name] = DatasetCalibration(
                corrections.pop("energy", nothing),
                corrections.pop("forces", nothing),
                facts.elements,
                weights,
                facts.reference_undetermined,
                corrections,
            )
            for name, evaluation in found.items():
                arrays |= {figure_key(facts.name, name, key): value for key, value in evaluation.figure.items()}
        names = tuple(m.name for m in spec.members)
        write_record(folder / CALIBRATION_FILE, EnsembleCalibration(SCHEMA_VERSION, spec.level, names, calibrations))
        write_json(
            folder / EVALUATION_FILE,
            {
                "schema_version": SCHEMA_VERSION,
                "level": spec.level,
                "datasets": {name: to_plain(report) for name, report in reports.items()},
            },
        )
        with storage_errors(folder):
            np.savez_compressed(folder / FIGURES_FILE, **arrays)  # type: ignore[arg-type]  # numpy types only allow_pickle
            card = model_card(cards, statistics, reports, spec.level, spec.seed)
            (folder / MODEL_CARD_FILE).write_text(card, encoding="utf-8")
    return CalibrateResult(str(output), read_manifest(output).digest, spec.level, reports, time.monotonic() - begun)


if __name__ == "__main__":
    sys.exit(run_program(CalibrateSpec, calibrate))
