"""Learning curves of candidates trained to the end: what ``benchmarks/rungs.py --record FILE`` trains and keeps."""

from __future__ import annotations

import csv
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

SETS = {"ethanol": "ethanol/train.xyz", "acac": "acac/train_300K.xyz"}
CANDIDATES, GRAPHS, PARTS = 24, 32768, 64
EIGHTHS = tuple(range(PARTS // 8, PARTS + 1, PARTS // 8))
CHECKS = (1, 2, 3, 4, *(eighth - before for eighth in EIGHTHS for before in (2, 1, 0)))  # 64ths of the budget
LAST = 3  # validations within this many 64ths of a rung are its last ones
SECOND = " again"  # after the number of a candidate
AGAIN = 6  # candidates that are trained a second time, with another seed
VALIDATED = 100
COLUMNS = (
    "dataset", "candidate", "settings", "graphs", "seconds",
    "force_mae", "energy_mae", "energy_mae_solved", "null_force_mae", "null_energy_mae",
)  # fmt: skip


def candidate(number: int) -> dict[str, Any]:
    """Return the settings of a candidate: the same ones for every dataset."""
    chance = np.random.default_rng((2026, number))
    algorithm = ("SchNet", "EGNN", "PaiNN", "PNA")[number % 4]
    widths = (16, 24, 32) if algorithm == "PaiNN" else (32, 48, 64)
    return {
        "algorithm": algorithm,
        "hidden": int(chance.choice(widths)),
        "layers": int(chance.integers(2, 4)),
        "cutoff": 4.5,
        "learning_rate": round(float(10 ** chance.uniform(-3.0, -2.0)), 6),
        "batch_size": int(chance.choice([8, 16])),
        "force_weight": round(float(10 ** chance.uniform(-0.5, 1.0)), 4),
    }


def record(data: Path, place: Path) -> None:
    """Train every candidate that is not in the file yet, and add its curve."""
    import torch
    from against_hydragnn import ingest

    torch.set_num_threads(1)
    done = {(row["dataset"], row["candidate"]) for row in read_rows(place)} if place.exists() else set()
    with TemporaryDirectory() as folder:
        datasets = {}
        for name, file in SETS.items():
            (Path(folder) / name).mkdir()
            datasets[name] = ingest(Path(folder) / name, [str(data / file)])
        for label in [*map(str, range(CANDIDATES)), *(f"{number}{SECOND}" for number in range(AGAIN))]:
            for name, dataset in datasets.items():
                if (name, label) not in done:
                    rows = list(_curve(Path(folder), name, dataset.path, label))
                    _append(place, rows)
                    print(name, label, rows[-1]["seconds"], rows[-1]["force_mae"], flush=True)


def _append(place: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    new = not place.exists()
    with place.open("a", newline="") as file:
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if new:
            table.writeheader()
        table.writerows(rows)


def read_rows(place: Path) -> list[dict[str, str]]:
    """Return what is recorded: a row per validation."""
    with place.open(newline="") as file:
        return list(csv.DictReader(file))


def _curve(work: Path, name: str, dataset: Path, label: str) -> Iterator[dict[str, Any]]:
    """Train one candidate and yield its validations; ``seconds`` are processor time of the steps alone."""
    from gfm_pipeline.apps.train.setup import prepare
    from gfm_pipeline.core.contracts.training import DatasetRef, TrainSpec, settings_of

    number = int(label.removesuffix(SECOND))
    seed = 7 + number + (1000 if label.endswith(SECOND) else 0)
    settings = candidate(number)
    model, optimiser = settings_of(settings)
    ref = DatasetRef("b", str(dataset))
    spec = TrainSpec("t", model, optimiser, (ref,), seed, str(work / "out"), GRAPHS, validation_limit=VALIDATED)
    trainer = prepare(spec)
    checks = [part * GRAPHS // PARTS for part in CHECKS]
    seconds = 0.0
    for graphs in checks:
        begun = time.process_time()
        while trainer.state.graphs < graphs:
            trainer.step()
        seconds += time.process_time() - begun
        found = trainer.validate(VALIDATED).errors["b"]
        measured = {
            "seconds": seconds,
            "force_mae": found.force_mae,
            "energy_mae": _unsolved(trainer),
            "energy_mae_solved": found.energy_mae,
            "null_force_mae": found.null_force_mae,
            "null_energy_mae": found.null_energy_mae,
        }
        last = graphs == checks[-1]
        yield {
            "dataset": name,
            "candidate": label,
            "settings": " ".join(f"{k}={v}" for k, v in settings.items()) if last else "",
            "graphs": graphs,
        } | {key: f"{value:.4g}" for key, value in measured.items()}
    trainer.close()


def _unsolved(trainer: Any) -> float:
    """Return the error of energies per atom as the averaged weights have them, without what was solved."""
    from gfm_pipeline.apps.dataset import collate
    from gfm_pipeline.apps.train.validate import subset
    from gfm_pipeline.core.contracts.targets import ENERGY

    model, (table,) = trainer.average, trainer.splits.validation.values()
    shift = model.shift(ENERGY).values
    kept = shift.clone()
    shift.zero_()
    graphs = subset(len(table), VALIDATED)
    batch = collate([table], np.zeros_like(graphs), graphs)
    error = (model.head_values(batch)["energy"] - batch.labels["energy"]) / batch.natoms
    shift.copy_(kept)
    return float(error.abs().mean())
