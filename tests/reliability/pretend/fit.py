"""Pretends `calibrate.fit`: an ensemble of digests."""

from __future__ import annotations

import sys
from pathlib import Path

from gfm_pipeline.apps.runtime.program import Task, run_program
from gfm_pipeline.core.contracts.evaluation import (
    EVALUATION_FILE,
    FIGURES_FILE,
    CalibrateResult,
    CalibrateSpec,
    DatasetReport,
    QuantityReport,
)
from gfm_pipeline.core.publish import publishing, read_manifest, verify
from pretend import mix

EMPTY_ZIP = b"PK\x05\x06" + bytes(18)  # arrays: none


def fit(spec: CalibrateSpec, task: Task) -> CalibrateResult:
    output = Path(spec.output)
    task.check()
    digests = [[verify(Path(p), digests=True).digest for p in (m.checkpoint, m.predictions)] for m in spec.members]
    with publishing(output, "pretend.fit") as folder:
        (folder / EVALUATION_FILE).write_text(mix(digests, spec.level, spec.seed))
        (folder / FIGURES_FILE).write_bytes(EMPTY_ZIP)
    quantity = QuantityReport(
        mae=0.1,
        rmse=0.2,
        null_mae=1.0,
        best_member_mae=0.1,
        coverage_raw=0.5,
        coverage_calibrated=0.9,
        interval_halfwidth=0.2,
        rank_correlation=0.5,
        nll_raw=1.0,
        nll_calibrated=0.5,
        miscalibration_raw=0.3,
        miscalibration_calibrated=0.1,
        scale=2.0,
        floor=0.1,
        quantile=1.0,
        n=4,
    )
    reports = {d.name: DatasetReport(quantity, quantity, 4) for d in spec.datasets}
    return CalibrateResult(str(output), read_manifest(output).digest, spec.level, reports, 0.0)


if __name__ == "__main__":
    sys.exit(run_program(CalibrateSpec, fit))
