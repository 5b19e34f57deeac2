"""Program: predict one part of the structures of a predict stage (`PredictPartSpec` to `PredictPartResult`)."""

from __future__ import annotations

import csv
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from gfm_pipeline.apps.deploy.bundle import open_ensemble
from gfm_pipeline.apps.deploy.errors_by_group import ErrorState, ErrorTable
from gfm_pipeline.apps.deploy.outputs import open_output
from gfm_pipeline.apps.deploy.predict import Counts, Part, batches_of_part, make_predictor, predict_batch
from gfm_pipeline.apps.ingest.read import check_source
from gfm_pipeline.apps.runtime.program import Task, run_program
from gfm_pipeline.core.contracts.deploy import PredictPartResult, PredictPartSpec
from gfm_pipeline.core.contracts.targets import Target
from gfm_pipeline.core.publish import publishing, read_manifest, storage_errors, write_record

PRODUCER = "deploy.predict_part 1"
PART_FILE, REFUSED_FILE = "part.json", "refused.csv"
REFUSED_COLUMNS = ("file", "record", "reason")


@dataclass(frozen=True)
class PartFacts:
    """Counts and errors of a part. ``outside``: structures unlike the training data; None: not known."""

    dataset: str
    targets: tuple[Target, ...]
    structures: int
    atoms: int
    n_refused: int
    unlabelled: int
    outside: int | None
    warnings: dict[str, int]
    errors: ErrorState


def predict_part(spec: PredictPartSpec, task: Task) -> PredictPartResult:
    """Predict every structure of the part and publish the predictions.

    A part without a single structure that can be predicted has an empty file.

    Raises
    ------
    DataError
        When the source cannot be read at all.
    IntegrityError, ConfigError
        When the model cannot be opened or used, or the output cannot be written.
    StopRequested
        On request to stop; nothing is left behind, and the next attempt begins anew.
    """
    started = time.monotonic()
    given = spec.predict
    if given.threads is not None:
        torch.set_num_threads(given.threads)
    check_source(given.source)
    predictor = make_predictor(open_ensemble(given.model), given)
    output = Path(spec.output)
    table = ErrorTable(predictor.targets)
    with publishing(output, PRODUCER, {"part": spec.part}) as folder:
        path = folder / REFUSED_FILE
        with (
            storage_errors(path),
            path.open("w", encoding="utf-8", newline="") as stream,
            open_output(folder / f"predictions.{spec.format}", predictor.levels) as predictions,
        ):
            refused = csv.writer(stream)
            refused.writerow(REFUSED_COLUMNS)
            counts = Counts(listed=lambda *row: refused.writerow(row))
            part = Part(spec.part, given.source.shards, task.check)
            for batch in batches_of_part(given, predictor, counts, part):
                predict_batch(given, predictor, batch, predictions, table if given.evaluate else None, counts)
                task.check()
                task.report_progress(done=counts.structures, refused=counts.n_refused)
        outside = counts.outside if predictor.tells_domain else None
        facts = PartFacts(
            predictor.dataset,
            predictor.targets,
            counts.structures,
            counts.atoms,
            counts.n_refused,
            counts.unlabelled,
            outside,
            dict(counts.warnings),
            table.state(),
        )
        write_record(folder / PART_FILE, facts)
    digest, seconds = read_manifest(output).digest, time.monotonic() - started
    return PredictPartResult(str(output), digest, counts.structures, counts.n_refused, outside, seconds)


if __name__ == "__main__":
    sys.exit(run_program(PredictPartSpec, predict_part))
