"""Sources that are made up, and what tests of declared sources share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from gfm_pipeline.apps.dataset import Columns, Dataset
from gfm_pipeline.apps.ingest.assemble import assemble_program
from gfm_pipeline.apps.ingest.read import read_shard_program
from gfm_pipeline.apps.ingest.records import Record
from gfm_pipeline.apps.runtime.program import Task
from gfm_pipeline.core.contracts.data import AssembleSpec, ReadShardSpec, SourceSettings, Split

PLAIN = SourceSettings("x", "ase")


def record(**change: Any) -> Record:
    base = Record(
        numbers=np.array([8, 1, 1]),
        pos=np.array([[0.0, 0, 0.12], [0, 0.76, -0.48], [0, -0.76, -0.48]]),
        forces=np.full((3, 3), 0.5),
        energy=-3.0,
        cell=np.zeros((3, 3)),
        pbc=np.zeros(3, dtype=bool),
        group="g",
        file="f",
        file_index=0,
        index=0,
    )
    return replace(base, **change)


def waters(path: Path, n: int, seed: int = 0) -> Path:
    """Write rattled molecules with harmonic labels, ten to a run."""
    rng = np.random.default_rng(seed)
    frames = []
    for k in range(n):
        atoms = molecule(["H2O", "CH4", "NH3"][k // 10 % 3])
        rest = atoms.positions.copy()
        atoms.positions += rng.normal(scale=0.05, size=rest.shape)
        moved = atoms.positions - rest
        energy = -10.0 * len(atoms) + 5.0 * float((moved**2).sum())
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=-10.0 * moved)
        atoms.info["run"] = f"run{k // 10}"
        frames.append(atoms)
    write(path, frames)
    return path


def ingest(folder: Path, source: SourceSettings, **change: Any) -> Path:
    folder.mkdir(exist_ok=True)
    shards = tuple(str(folder / f"shard{k}") for k in range(source.shards))
    for k, shard in enumerate(shards):
        read_shard_program(ReadShardSpec(source, k, 3, shard), Task(folder))
    spec = AssembleSpec(source, shards, 0.2, 0.2, 0.5, 5, str(folder / source.name))
    return Path(assemble_program(replace(spec, **change), Task(folder)).output)


def joined(dataset: Dataset) -> Columns:
    return Columns.concatenate([dataset.columns(split) for split in Split])


def harmonic(n: int, seed: int = 0) -> list[Record]:
    """Return vibrating crystals: every atom on a spring to its site, and springs along bonds by symmetry."""
    rng = np.random.default_rng(seed)
    sites = bulk("Cu", cubic=True) * (2, 1, 1)
    found = []
    for _ in range(n):
        moved = rng.normal(scale=0.05, size=(len(sites), 3))
        moved -= moved.mean(axis=0)
        found.append(
            record(
                numbers=sites.numbers,
                pos=sites.positions + moved,
                energy=-60.0 + 4.0 * float((moved**2).sum()),
                forces=-8.0 * moved,
                cell=sites.cell.array,
                pbc=np.ones(3, dtype=bool),
            )
        )
    return found


def crystals(path: Path, n: int) -> Path:
    """Write vibrating crystals."""
    frames = []
    for r in harmonic(n):
        atoms = Atoms(r.numbers, r.pos, cell=r.cell, pbc=r.pbc)
        atoms.calc = SinglePointCalculator(atoms, energy=r.energy, forces=r.forces)
        frames.append(atoms)
    write(path, frames)
    return path
