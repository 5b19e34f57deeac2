"""Program: sum the counts and errors of all parts of a predict stage (`JoinPartsSpec` to `JoinPartsResult`)."""

from __future__ import annotations

import csv
import sys
from collections import Counter
from pathlib import Path

from gfm_pipeline.apps.deploy.errors_by_group import ErrorTable
from gfm_pipeline.apps.deploy.predict_part import PART_FILE, REFUSED_COLUMNS, REFUSED_FILE, PartFacts
from gfm_pipeline.apps.runtime.program import Task, run_program
from gfm_pipeline.core.contracts.deploy import ErrorsOf, JoinPartsResult, JoinPartsSpec
from gfm_pipeline.core.errors import DataError
from gfm_pipeline.core.publish import publishing, read_manifest, storage_errors, write_json
from gfm_pipeline.core.records import read_record, to_plain

PRODUCER = "deploy.join_parts 1"
SUMMARY_FILE, ERRORS_FILE = "summary.json", "errors.csv"


def join_parts(spec: JoinPartsSpec, task: Task) -> JoinPartsResult:
    """Sum all parts and publish ``summary.json``, every refused structure, and the table of errors.

    Raises
    ------
    DataError
        When no structure of any part can be predicted.
    IntegrityError
        When a part is damaged.
    """
    folders = [Path(folder) for folder in spec.parts]
    parts = [read_record(PartFacts, folder / PART_FILE) for folder in folders]
    structures, n_refused = sum(p.structures for p in parts), sum(p.n_refused for p in parts)
    if not structures:
        raise DataError(f"None of {n_refused:,} structures can be predicted.", f"{folders[0] / REFUSED_FILE} says why.")
    table, warnings = ErrorTable(parts[0].targets), Counter[str]()
    for part in parts:
        task.check()
        table.merge(part.errors)
        warnings.update(part.warnings)
    outside = None if parts[0].outside is None else sum(p.outside or 0 for p in parts)
    errors = tuple(sorted(table.errors(), key=lambda e: (e.target, e.by != "all", e.by, -e.entries)))
    summary = {
        "dataset": parts[0].dataset,
        "targets": [target.name for target in parts[0].targets],
        "structures": structures,
        "atoms": sum(p.atoms for p in parts),
        "n_refused": n_refused,
        "unlabelled": sum(p.unlabelled for p in parts),
        "outside": outside,
        "warnings": dict(warnings),
        "errors": to_plain(errors),
        "worst": to_plain(tuple(table.worst())),
    }
    output = Path(spec.output)
    with publishing(output, PRODUCER) as folder:
        write_json(folder / SUMMARY_FILE, summary)
        _write_refused(folder / REFUSED_FILE, folders)
        if errors:
            _write_errors(folder / ERRORS_FILE, errors)
    return JoinPartsResult(str(output), read_manifest(output).digest, structures, n_refused, outside, errors)


def _write_refused(path: Path, folders: list[Path]) -> None:
    with storage_errors(path), path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(REFUSED_COLUMNS)
        for folder in folders:
            with open(folder / REFUSED_FILE, encoding="utf-8", newline="") as one:
                rows = csv.reader(one)
                next(rows)  # the header
                writer.writerows(rows)


def _write_errors(path: Path, errors: tuple[ErrorsOf, ...]) -> None:
    rows = [to_plain(one) for one in errors]
    with storage_errors(path), path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    sys.exit(run_program(JoinPartsSpec, join_parts))
