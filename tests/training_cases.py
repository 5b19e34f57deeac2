"""Small datasets with labels in closed form, and what tests of training compare."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from gfm_pipeline.apps.dataset import Columns, GraphTable, write_bp
from gfm_pipeline.apps.dataset.store.index import IndexWriter
from gfm_pipeline.apps.dataset.store.write import BpWriter, chunks
from gfm_pipeline.apps.runtime.program import StopRequested, Task
from gfm_pipeline.apps.train.checkpoint import load
from gfm_pipeline.apps.train.task import train
from gfm_pipeline.core.contracts.data import Split
from gfm_pipeline.core.contracts.dataset_statistics import DatasetStatistics
from gfm_pipeline.core.contracts.layout import LAYOUT_FILE, BpShard, DatasetLayout, LabelExtent
from gfm_pipeline.core.contracts.training import DatasetRef, ModelSettings, OptimiserSettings, TrainSpec
from gfm_pipeline.core.contracts.training_result import TrainResult
from gfm_pipeline.core.publish import publishing, write_record

REFERENCE = {"H": -13.0, "O": -430.0}


def morse_columns(seed: int, n: int, stiffness: float) -> Columns:
    """Clusters of 3 or 4 atoms with a Morse bond between every pair, labels in closed form."""
    rng = np.random.default_rng(seed)
    natoms = rng.integers(3, 5, n)
    numbers, pos, forces, energy = [], [], [], []
    corners = np.array([[0, 0, 0], [1.1, 0, 0], [0, 1.1, 0], [0, 0, 1.1]])
    for k in natoms:
        z, x = rng.choice([1, 8], k), corners[:k] + rng.normal(scale=0.12, size=(k, 3))
        vec = x[:, None] - x[None]
        d = np.linalg.norm(vec, axis=-1) + np.eye(k)
        depth = stiffness * (1 + 0.5 * (z[:, None] != z[None])) * (1 - np.eye(k))
        decay = np.exp(-(d - 1.2))
        slope = 2 * depth * (1 - decay) * decay
        numbers.append(z)
        pos.append(x)
        forces.append(-(slope[..., None] * vec / d[..., None]).sum(1))
        energy.append(0.5 * (depth * (1 - decay) ** 2).sum() + sum(REFERENCE["H" if s == 1 else "O"] for s in z))
    return Columns.build(
        numbers=np.concatenate(numbers),
        pos=np.concatenate(pos),
        forces=np.concatenate(forces),
        energy=np.array(energy),
        cell=np.zeros((n, 3, 3)),
        pbc=np.zeros((n, 3)),
        natoms=natoms,
    )


def write_blocks(place: Path, name: str, splits: dict[Split, Columns], block: int) -> None:
    """Write two files in blocks of ``block`` structures, with an index."""
    shards = []
    for number in range(2):
        parts = {}
        for split, columns in splits.items():
            half = -(-len(columns) // block) // 2 * block
            parts[split] = columns.take(np.arange(*((0, half) if number == 0 else (half, len(columns)))))
        extents = {
            s: LabelExtent(len(c), len(c.numbers), tuple(c.offsets[:-1][::block].tolist())) for s, c in parts.items()
        }
        with BpWriter(place / f"{name}-{number}.bp", name, extents, {1: -13.0, 8: -430.0}) as writer:
            for split, columns in parts.items():
                for piece in chunks(columns, block):
                    writer.put(split, piece)
        shards.append(BpShard(f"{name}-{number}.bp", {str(s): e for s, e in extents.items()}))
    write_record(place / LAYOUT_FILE, DatasetLayout(block, "", tuple(shards)))
    with IndexWriter(place, {s: len(c) for s, c in splits.items()}) as index:
        for split, columns in splits.items():
            for piece in chunks(columns, 7):
                index.add(split, piece)


def publish_dataset(
    folder: Path,
    name: str,
    seed: int,
    stiffness: float,
    n: tuple[int, int, int] = (96, 24, 24),
    block: int | None = None,
) -> DatasetRef:
    splits = {s: morse_columns(seed + k, size, stiffness) for k, (s, size) in enumerate(zip(Split, n, strict=True))}
    table = GraphTable.build(splits[Split.TRAIN], 3.0, 0, {"energy": REFERENCE})
    counts = {str(s): len(c) for s, c in splits.items()}
    statistics = DatasetStatistics(
        name=name,
        n_structures=counts,
        n_atoms={str(s): int(c.natoms.sum()) for s, c in splits.items()},
        n_groups=counts,
        elements=("H", "O"),
        reference=REFERENCE,
        reference_rank=2,
        reference_from="isolated atoms",
        force_rms=float(np.sqrt(np.mean(table.atom_labels["forces"] ** 2))),
        energy_std=float(np.std(table.graph_labels["energy"] / table.natoms)),
        null_energy_mae=dict.fromkeys(counts, 1.0),
        null_force_mae=dict.fromkeys(counts, 1.0),
        max_atoms=4,
        n_quarantined=0,
        reasons={},
    )
    with publishing(folder / name, "test") as place:
        if block is None:
            write_bp(place / f"{name}.bp", name, splits, {1: -13.0, 8: -430.0})
        else:
            write_blocks(place, name, splits, block)
        write_record(place / "statistics.json", statistics)
    return DatasetRef(name, str(folder / name))


def lines(*folders: Path) -> list[dict]:
    """Validation lines of attempts, end to end, without what depends on the clock."""
    found = [json.loads(x) for f in folders for x in (f / "progress.jsonl").read_text().splitlines()]
    return [{k: v for k, v in x.items() if k not in ("time", "seconds")} for x in found if "objective" in x]


def assert_same_state(a: str | Path, b: str | Path) -> None:
    left, right = load(Path(a)), load(Path(b))
    for group in ("weights", "ema"):
        one, two = getattr(left.tensors, group), getattr(right.tensors, group)
        assert one.keys() == two.keys()
        assert all(torch.equal(one[k], two[k]) for k in one), group
    assert left.tensors.optimiser.keys() == right.tensors.optimiser.keys()
    for key, value in left.tensors.optimiser.items():
        other = right.tensors.optimiser[key]
        assert torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other, key
    assert left.state.schedule == right.state.schedule
    assert left.card.objective == right.card.objective
    assert left.state.graphs == right.state.graphs


def small_spec(datasets: tuple[DatasetRef, ...], output: Path) -> TrainSpec:
    return TrainSpec(
        task="t",
        model=ModelSettings("SchNet", hidden=16, layers=2, cutoff=3.0),
        optimiser=OptimiserSettings(learning_rate=5e-3, batch_size=8, force_weight=1.0, warmup=10),
        datasets=datasets,
        seed=3,
        output=str(output),
        budget_graphs=400,
        validate_every=100,
    )


class StopAt(Task):
    """A task that is asked to stop at its n-th look."""

    looks = -1

    @property
    def stop_requested(self) -> bool:
        self.looks -= 1
        return self.looks == -1


def run(spec: TrainSpec, folder: Path, looks: int | None = None) -> TrainResult | Path:
    """Train in ``folder``; after ``looks`` steps stop and return the folder instead of a result."""
    folder.mkdir(parents=True)
    task = StopAt(folder)
    task.looks = -2 if looks is None else looks
    try:
        return train(spec, task)[0]
    except StopRequested:
        return folder
