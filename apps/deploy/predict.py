"""Program: predict the structures of files with an ensemble (`PredictFilesSpec` to `PredictFacts`).

A process with limited resources reads the structures one by one; they are computed in batches. A structure without
prediction is named and does not affect others.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from gfm_pipeline.apps.calibrate.ensemble import Ensemble
from gfm_pipeline.apps.deploy.bundle import open_ensemble
from gfm_pipeline.apps.deploy.errors_by_group import ErrorTable
from gfm_pipeline.apps.deploy.outputs import PredictionFile, open_output
from gfm_pipeline.apps.deploy.predictor import Predictor
from gfm_pipeline.apps.deploy.samples import EntrySample
from gfm_pipeline.apps.ingest.checks.filters import Conversion, malformed
from gfm_pipeline.apps.ingest.files.isolation import isolated
from gfm_pipeline.apps.ingest.read import check_source
from gfm_pipeline.apps.ingest.readers.registry import get_reader
from gfm_pipeline.apps.ingest.records import PassedOver, Record
from gfm_pipeline.apps.runtime.query_program import answer_query
from gfm_pipeline.core.contracts.data import BadRecord
from gfm_pipeline.core.contracts.deploy import (
    FIGURES_FILE,
    MOST_REFUSED,
    TARGETS_FILE,
    OutOfDomain,
    PredictFacts,
    PredictFilesSpec,
)
from gfm_pipeline.core.contracts.properties.attributes import BUILT_IN, CHARGE, SPIN, Attribute
from gfm_pipeline.core.contracts.readers import describe
from gfm_pipeline.core.contracts.targets import is_default
from gfm_pipeline.core.errors import ConfigError, DataError, ModelError
from gfm_pipeline.core.publish import write_json
from gfm_pipeline.core.records import to_plain


@dataclass
class Counts:
    """Counts of predictions and refusals, with the names of the first refusals."""

    structures: int = 0
    atoms: int = 0
    unlabelled: int = 0
    n_refused: int = 0
    refused: list[str] = field(default_factory=list)
    outside: int = 0
    warnings: Counter[str] = field(default_factory=Counter)
    listed: Callable[[str, int, str], None] | None = None  # receives file, record and reason of every refusal

    def refuse(self, file: str, record: int, reason: str) -> None:
        """Count a structure without an answer."""
        self.n_refused += 1
        if self.listed is not None:
            self.listed(file, record, reason)
        if len(self.refused) < MOST_REFUSED:
            self.refused.append(f"{file}, record {record}: {reason.rstrip('.')}.")

    def list_refused(self) -> str | None:
        """Return lines that name the first refused structures; None if none was refused."""
        if not self.n_refused:
            return None
        title = f"  {self.n_refused:,} structures have no prediction:"
        return "\n".join([title, *(f"    {sentence}" for sentence in self.refused)])


@dataclass(frozen=True)
class Structure:
    """A record in eV and Angstrom, and its structure."""

    record: Record
    atoms: Atoms


@dataclass(frozen=True)
class Part:
    """One of ``of`` parts of a source; ``check`` is called while records are awaited, and may raise."""

    number: int = 0
    of: int = 1
    check: Callable[[], None] = lambda: None


def predict_files(spec: PredictFilesSpec) -> PredictFacts:
    """Predict every structure of the files, write the predictions, and sum errors if labels are requested.

    Raises
    ------
    DataError
        When a file is missing, no structure can be predicted, or errors are requested and no structure has labels.
    IntegrityError, ModelError, ConfigError
        When the model cannot be opened or used, or the output cannot be written.
    """
    started = time.monotonic()
    if spec.threads is not None:
        torch.set_num_threads(spec.threads)
    check_source(spec.source)
    predictor = make_predictor(open_ensemble(spec.model), spec)
    output = (
        nullcontext()
        if spec.output is None
        else open_output(
            Path(spec.output), predictor.levels, (spec.model, *spec.source.files), overwrite=spec.overwrite
        )
    )
    sample = None if spec.figures is None else EntrySample()
    counts, table = Counts(), ErrorTable(predictor.targets, sample) if spec.evaluate else None
    with output as written:
        for batch in batches_of(spec, predictor, counts):
            predict_batch(spec, predictor, batch, written, table, counts)
        if not counts.structures:
            first = f" {counts.refused[0]}" if counts.refused else ""
            others = counts.list_refused() if counts.n_refused > 1 else None
            raise DataError(f"None of the structures can be predicted.{first}", "Correct the files.", others)
    if table is not None and counts.unlabelled == counts.structures:
        files = spec.source.files
        more = f" and {len(files) - 1} more" if files[1:] else ""
        raise DataError(
            f"No structure has a label of what the model predicts ({files[0]}{more}, {counts.structures:,} records).",
            "Use predict, or name the labels with --energy-key and --forces-key.",
            counts.list_refused(),
        )
    if sample is not None and spec.figures is not None:
        sample.write(Path(spec.figures) / FIGURES_FILE, predictor.dataset, predictor.level)
        write_json(Path(spec.figures) / TARGETS_FILE, to_plain(predictor.targets))
    return PredictFacts(
        output=spec.output,
        dataset=predictor.dataset,
        targets=tuple(target.name for target in predictor.targets),
        structures=counts.structures,
        atoms=counts.atoms,
        seconds=time.monotonic() - started,
        n_refused=counts.n_refused,
        refused=tuple(counts.refused),
        warnings=dict(counts.warnings),
        errors=() if table is None else tuple(table.errors()),
        worst=() if table is None else tuple(table.worst()),
        unlabelled=counts.unlabelled,
        outside=counts.outside if predictor.tells_domain else None,
        level=predictor.level,
    )


def make_predictor(ensemble: Ensemble, spec: PredictFilesSpec) -> Predictor:
    """Return a predictor with the requested dataset head, dtype and device.

    Raises
    ------
    ConfigError
        When the ensemble has no such head, or the machine no such device.
    """
    try:
        # `predicted` refuses single results, so that a refusal does not affect its batch.
        policy = OutOfDomain.WARN if spec.on_out_of_domain is OutOfDomain.REFUSE else spec.on_out_of_domain
        return Predictor(ensemble, spec.dataset, dtype=spec.dtype, device=spec.device, on_out_of_domain=policy)
    except ModelError as error:  # the fault of the request, not of the model
        hint = error.hint and error.hint.replace("dataset=NAME", "--dataset NAME")
        raise ConfigError(error.message, hint) from error


def batches_of(spec: PredictFilesSpec, predictor: Predictor, counts: Counts) -> Iterator[list[Structure]]:
    """Read the files, yield batches with at most ``batch_atoms`` atoms, or with one structure, and show progress."""
    with _progress() as progress:
        shown = progress.add_task("structures", total=None)
        for batch in batches_of_part(spec, predictor, counts, Part()):
            yield batch
            progress.update(shown, completed=counts.structures)


def batches_of_part(
    spec: PredictFilesSpec, predictor: Predictor, counts: Counts, part: Part
) -> Iterator[list[Structure]]:
    """Read a part of the files and yield batches with at most ``batch_atoms`` atoms, or with one structure."""
    batch: list[Structure] = []
    atoms = 0
    for structure in _structures(spec, predictor, counts, part):
        if batch and atoms + len(structure.atoms) > spec.batch_atoms:
            yield batch
            batch, atoms = [], 0
        batch.append(structure)
        atoms += len(structure.atoms)
    if batch:
        yield batch


def _progress() -> Progress:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    return Progress(*columns, console=Console(stderr=True), transient=True)


def _structures(spec: PredictFilesSpec, predictor: Predictor, counts: Counts, part: Part) -> Iterator[Structure]:
    source = replace(spec.source, attributes=tuple(one for one in predictor.attributes if one not in BUILT_IN))
    if describe(source.reader).makes_data:
        raise ConfigError(f"{source.reader} reads no files.", "Name a reader of files.")
    if spec.evaluate:
        source = replace(source, targets=tuple(t for t in predictor.targets if not is_default(t)))
    conversion = Conversion.of(source)
    reader = isolated(get_reader(source.reader), spec.limits, part.check)
    for item in reader.read(source, part.number, part.of, 0):
        if isinstance(item, (BadRecord, PassedOver)):
            counts.refuse(item.file, item.index, item.reason)
            continue
        reason = malformed(item)
        if reason is None:
            record = conversion.apply(item)
            info = _info(record, predictor.attributes)
            atoms = Atoms(record.numbers, record.pos, cell=record.cell, pbc=record.pbc, info=info)
            try:
                predictor.check(atoms)
            except ModelError as error:
                reason = str(error)
        if reason is not None:
            counts.refuse(item.file, item.index, reason)
            continue
        yield Structure(record, atoms)


def _info(record: Record, attributes: Sequence[Attribute]) -> dict[str, Any]:
    """Return the graph attributes of a record as the calculator reads them."""
    stated = {CHARGE.name: record.charge, SPIN.name: record.spin, **record.labels}
    return {one.names[0]: one.value(float(n)) for one in attributes if (n := stated.get(one.name)) is not None}


def predict_batch(
    spec: PredictFilesSpec,
    predictor: Predictor,
    batch: list[Structure],
    output: PredictionFile | None,
    table: ErrorTable | None,
    counts: Counts,
) -> None:
    """Predict a batch, write its results, and sum their errors."""
    for one, result in predicted(predictor, batch, counts, refuse=spec.on_out_of_domain is OutOfDomain.REFUSE):
        record = one.record
        if output is not None:
            output.add(record.file, record.index, one.atoms, result)
        if table is not None:
            group = record.group if spec.by_group else None
            if spec.by_group and group is None:
                counts.warnings[f"without the key {spec.source.group_key!r}, and in no group"] += 1
            references = {target.name: predictor.reference(target, one.atoms) for target in predictor.targets}
            labelled = table.add((record.file, record.index), one.atoms, _labels(record), result, group, references)
            counts.unlabelled += not labelled


def predicted(
    predictor: Predictor, batch: Sequence[Structure], counts: Counts, *, refuse: bool = False, features: bool = False
) -> Iterator[tuple[Structure, dict[str, Any]]]:
    """Yield each structure with its results from `Predictor.predict`.

    If a batch fails, each structure is computed alone, so that the fault is named and costs one structure. ``refuse``:
    structures unlike the training data are refused.
    """
    try:
        results = predictor.predict([one.atoms for one in batch], features=features)
    except ModelError as error:
        if len(batch) > 1:
            for one in batch:
                yield from predicted(predictor, [one], counts, refuse=refuse, features=features)
            return
        counts.refuse(batch[0].record.file, batch[0].record.index, str(error))
        return
    for one, result in zip(batch, results, strict=True):
        if not all(np.isfinite(np.asarray(result[target.name])).all() for target in predictor.targets):
            counts.refuse(one.record.file, one.record.index, "the prediction is not finite")
            continue
        if not result.get("in_domain", True):
            if refuse:
                counts.refuse(one.record.file, one.record.index, predictor.outside)
                continue
            counts.outside += 1
        counts.structures += 1
        counts.atoms += len(one.atoms)
        counts.warnings.update(result["warnings"])
        yield one, result


def _labels(record: Record) -> dict[str, Any]:
    """Return the labels of a record by the names of their targets."""
    found = {"energy": record.energy, "forces": record.forces, **record.labels}
    return {name: label for name, label in found.items() if label is not None and record.fault is None}


if __name__ == "__main__":
    sys.exit(answer_query(PredictFilesSpec, predict_files))
