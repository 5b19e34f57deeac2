"""Small sources, and what tests of ingest compare."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator

from gfm_pipeline.apps.dataset import Columns, Dataset
from gfm_pipeline.apps.ingest.assemble import assemble_program
from gfm_pipeline.apps.ingest.assembly.packed_records import Shard
from gfm_pipeline.apps.ingest.assembly.shard import read_shard
from gfm_pipeline.apps.ingest.read import read_shard_program
from gfm_pipeline.apps.runtime.program import Task
from gfm_pipeline.core.contracts.data import (
    AssembleResult,
    AssembleSpec,
    BadRecord,
    ReadShardResult,
    ReadShardSpec,
    SourceSettings,
    Split,
)

ALLOYS = {"parents": 12, "children": 2, "sizes": [4, 6]}


def run_read(folder: Path, source: SourceSettings, seed: int = 3) -> list[ReadShardResult]:
    folder.mkdir(exist_ok=True)
    return [
        read_shard_program(ReadShardSpec(source, k, seed, str(folder / f"{source.name}-{k}")), Task(folder))
        for k in range(source.shards)
    ]


def run_all(
    folder: Path, source: SourceSettings, fraction: float = 0.2, max_quarantined: float = 0.0
) -> AssembleResult:
    shards = tuple(result.output for result in run_read(folder, source))
    spec = AssembleSpec(source, shards, fraction, fraction, max_quarantined, 5, str(folder / source.name))
    return assemble_program(spec, Task(folder))


def only_shard(folder: Path, source: SourceSettings) -> tuple[Shard, list[BadRecord]]:
    return read_shard(Path(run_read(folder, source)[0].output))


def labelled(n: int = 12, seed: int = 0) -> list[Atoms]:
    """Return methanol, water and copper frames with made-up labels."""
    rng = np.random.default_rng(seed)
    frames = []
    for k in range(n):
        atoms = [molecule("CH3OH"), molecule("H2O"), bulk("Cu", cubic=True)][k % 3]
        atoms.rattle(0.05, seed=seed + k)
        atoms.info["run"] = f"run{k % 4}"
        atoms.calc = SinglePointCalculator(atoms, energy=rng.normal(), forces=rng.normal(size=(len(atoms), 3)))
        frames.append(atoms)
    return frames


def assert_labels(shard: Shard, frames: list[Atoms]) -> None:
    assert len(shard) == len(frames)
    np.testing.assert_array_equal(shard.natoms, [len(a) for a in frames])
    np.testing.assert_array_equal(shard.numbers, np.concatenate([a.numbers for a in frames]))
    np.testing.assert_allclose(shard.pos, np.concatenate([a.positions for a in frames]), atol=1e-7)
    np.testing.assert_allclose(shard.energy, [a.calc.results["energy"] for a in frames], atol=1e-7)
    np.testing.assert_allclose(shard.forces, np.concatenate([a.calc.results["forces"] for a in frames]), atol=1e-7)
    np.testing.assert_allclose(shard.cell, [a.cell.array for a in frames], atol=1e-7)
    np.testing.assert_array_equal(shard.pbc, [a.pbc for a in frames])


def all_columns(result: AssembleResult) -> Columns:
    dataset = Dataset.open(Path(result.output), digests=True)
    return Columns.concatenate([dataset.columns(split) for split in Split])
