"""Program: choose structures of a pool to label (`SelectSpec` to `SelectFacts`), and write them with the reasons."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.io import write
from numpy.typing import NDArray

from gfm_pipeline.apps.dataset import Dataset
from gfm_pipeline.apps.dataset.store.columns import Columns
from gfm_pipeline.apps.deploy.bundle import open_ensemble
from gfm_pipeline.apps.deploy.diversity import ChosenStructures, Floats, choose
from gfm_pipeline.apps.deploy.predict import Counts, Structure, batches_of, make_predictor, predicted
from gfm_pipeline.apps.deploy.predictor import Predictor
from gfm_pipeline.apps.ingest.checks.shared_structures import structure_keys
from gfm_pipeline.apps.ingest.read import check_source
from gfm_pipeline.apps.runtime.query_program import answer_query
from gfm_pipeline.core.contracts.data import Split, is_test_set
from gfm_pipeline.core.contracts.deploy import MOST_REFUSED, SelectFacts, SelectSpec
from gfm_pipeline.core.errors import ConfigError, DataError
from gfm_pipeline.core.publish import check_output, storage_errors

KNOWN = 1000  # largest number of training structures compared with the pool
NAMES = {Split.TRAIN: "training", Split.VALIDATION: "validation", Split.TEST: "test"}
SUFFIXES = (".extxyz", ".xyz")


@dataclass
class _Pool:
    """Stored data of each candidate structure."""

    places: list[tuple[str, int]] = field(default_factory=list)
    structures: list[Atoms] = field(default_factory=list)
    uncertainty: list[float] = field(default_factory=list)
    distance: list[float | None] = field(default_factory=list)
    features: list[Floats] = field(default_factory=list)
    overlap: list[str] = field(default_factory=list)
    n_overlap: int = 0

    def add(self, one: Structure, result: dict[str, Any]) -> None:
        self.places.append((one.record.file, one.record.index))
        self.structures.append(one.atoms)
        self.uncertainty.append(uncertainty_of(result, len(one.atoms)))
        self.distance.append(result.get("distance"))
        self.features.append(result["features"])

    def pass_over(self, one: Structure, where: str) -> None:
        self.n_overlap += 1
        if len(self.overlap) < MOST_REFUSED:
            self.overlap.append(f"{one.record.file}, record {one.record.index}, in {where}")


def uncertainty_of(result: dict[str, Any], natoms: int) -> float:
    """Return the spread of the members: of forces (root mean square, eV/Angstrom), or of the energy (eV/atom)."""
    if "forces_std" in result:
        return float(np.sqrt(np.square(result["forces_std"]).sum(1).mean()))
    return float(result["energy_std"]) / natoms


def select(spec: SelectSpec) -> SelectFacts:
    """Choose structures and write them, the first choice first.

    Raises
    ------
    DataError
        When a file is missing, or no structure can be chosen.
    ConfigError, IntegrityError, StorageError
        When the model cannot be used, the output already exists or has another suffix, or the disk refuses.
    """
    started = time.monotonic()
    output = Path(spec.output)
    if output.suffix not in SUFFIXES:
        raise ConfigError(f"{output} does not end in {SUFFIXES[0]}.", f"Use --output {output.stem}{SUFFIXES[0]}.")
    inputs = (spec.predict.model, *spec.predict.source.files)
    check_output(output, inputs, overwrite=spec.predict.overwrite)
    check_source(spec.predict.source)
    predictor = make_predictor(open_ensemble(spec.predict.model), spec.predict)
    if len(predictor.ensemble.calibration.members) < 2:
        raise ConfigError("The model has one member, and no spread to choose by.", "Use an ensemble of two or more.")
    known, keys = _training(spec, predictor)
    pool, counts = _Pool(), Counts()
    for batch in batches_of(spec.predict, predictor, counts):
        fresh = []
        for one, key in zip(batch, _keys([o.atoms for o in batch]).tolist(), strict=True):
            where = next((name for name, those in keys.items() if key in those), None)
            if where is None:
                fresh.append(one)
            else:
                pool.pass_over(one, where)
        for one, result in predicted(predictor, fresh, counts, features=True):
            pool.add(one, result)
    if not pool.structures:
        raise DataError(_nothing(pool, counts), "Give a pool of other structures.")
    chosen = choose(np.array(pool.uncertainty), np.stack(pool.features), spec.n, known)
    _write(output, pool, chosen, "forces_std" if "forces" in predictor.levels else "energy_std")
    inside = [pool.distance[at] for at in chosen.places.tolist()]
    return SelectFacts(
        output=str(output),
        dataset=predictor.dataset,
        pool=counts.structures + pool.n_overlap,
        chosen=len(chosen.places),
        out_of_domain=None if None in inside else sum(d > 1.0 for d in inside if d is not None),
        uncertainty=float(np.mean([pool.uncertainty[at] for at in chosen.places.tolist()])),
        uncertainty_of_pool=float(np.mean(pool.uncertainty)),
        files=dict(Counter(pool.places[at][0] for at in chosen.places.tolist())),
        compared=known is not None,
        n_overlap=pool.n_overlap,
        overlap=tuple(pool.overlap),
        n_refused=counts.n_refused,
        refused=tuple(counts.refused),
        seconds=time.monotonic() - started,
    )


def _nothing(pool: _Pool, counts: Counts) -> str:
    if pool.n_overlap:
        return f"All {pool.n_overlap} structures of the pool are in the data of the model ({pool.overlap[0]}, ...)."
    first = f" {counts.refused[0]}" if counts.refused else ""
    return f"None of the structures can be predicted.{first}"


def _training(spec: SelectSpec, predictor: Predictor) -> tuple[Floats | None, dict[str, set[int]]]:
    """Return features of a sample of the training structures, and the keys of the structures of each split by name."""
    keys: dict[str, set[int]] = {}
    sample: list[Atoms] = []
    for folder in spec.training:
        dataset = Dataset.open(Path(folder))
        for split in Split:
            for columns in dataset.blocks(split):
                mine = list(_structures(columns))
                keys.setdefault(_named(dataset.name, split), set()).update(_keys(mine).tolist())
                if split is Split.TRAIN and dataset.name == predictor.dataset:
                    sample += mine
    if not sample:
        return None, keys
    step = -(-len(sample) // KNOWN)
    found: list[Floats] = []
    for first in range(0, len(sample[::step]), 32):
        found += [r["features"] for r in predictor.predict(sample[::step][first : first + 32], features=True)]
    return np.stack(found), keys


def _named(dataset: str, split: Split) -> str:
    return f"the test set {dataset}" if is_test_set(dataset) else f"the {NAMES[split]} data of {dataset}"


def _structures(columns: Columns) -> Iterator[Atoms]:
    ends = np.cumsum(columns.natoms)
    for g, end in enumerate(ends.tolist()):
        mine = slice(end - int(columns.natoms[g]), end)
        yield Atoms(
            numbers=columns.numbers[mine], positions=columns.pos[mine], cell=columns.cell[g], pbc=columns.pbc[g]
        )


def _keys(structures: Sequence[Atoms]) -> NDArray[np.uint64]:
    """Return keys of structures in single precision, as in datasets."""

    def stored(values: list[NDArray[Any]]) -> Floats:
        return np.asarray(values, np.float32).astype(np.float64)

    return structure_keys(
        np.concatenate([a.numbers for a in structures]).astype(np.uint8),
        stored(list(np.concatenate([a.positions for a in structures]))),
        stored([a.cell.array for a in structures]),
        np.stack([a.pbc for a in structures]),
        np.array([len(a) for a in structures]),
    )


def _write(output: Path, pool: _Pool, chosen: ChosenStructures, name: str) -> None:
    """Write the chosen structures with the reasons in ``info``, completely or not at all."""
    order = np.sort(np.array(pool.uncertainty))
    unit = "eV/A" if name == "forces_std" else "eV/atom"
    frames = []
    for rank, (at, apart) in enumerate(zip(chosen.places.tolist(), chosen.distances.tolist(), strict=True), start=1):
        atoms, value, distance = pool.structures[at], pool.uncertainty[at], pool.distance[at]
        above = 100.0 * float(np.mean(order >= value))
        words = [f"{name} {value:.4g} {unit}, among the {above:.2g} % most uncertain"]
        if np.isfinite(apart):
            words.append(f"{apart:.3g} standard deviations from the nearest known or chosen one")
        if distance is not None:
            words.append("in domain" if distance <= 1.0 else f"out of domain (distance {distance:.3g})")
        file, record = pool.places[at]
        atoms.info |= {"selected": rank, "selected_by": "; ".join(words), "source_file": Path(file).name}
        atoms.info |= {"source_record": record, "uncertainty": value}
        frames.append(atoms)
    partial = output.with_name(f".{output.name}.partial")
    with storage_errors(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(partial, frames, format="extxyz")
            partial.replace(output)
        finally:
            partial.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(answer_query(SelectSpec, select))
