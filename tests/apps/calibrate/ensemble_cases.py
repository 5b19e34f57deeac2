"""A small ensemble of two members, trained and calibrated once per test module."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT

from gfm_pipeline.apps.dataset import Columns, write_bp
from gfm_pipeline.apps.runtime.program import Task
from gfm_pipeline.core.contracts.data import Split
from gfm_pipeline.core.contracts.dataset_statistics import DatasetStatistics
from gfm_pipeline.core.contracts.training import DatasetRef
from gfm_pipeline.core.publish import publishing, write_record

LEVEL = 0.8
REFERENCES = {"wet": {"H": -13.5, "O": -431.25}, "metal": {"Cu": -1640.5, "Au": -3690.75}}
SIZES = {Split.TRAIN: 96, Split.VALIDATION: 48, Split.TEST: 48}


def wet(rng: np.random.Generator) -> Atoms:
    atoms = molecule(("H2O", "H2O2", "O2", "OH")[int(rng.integers(4))])
    atoms.positions += rng.normal(scale=0.06, size=atoms.positions.shape)
    return atoms


def metal(rng: np.random.Generator) -> Atoms:
    atoms = bulk("Cu", "fcc", a=3.8, cubic=True)
    atoms.symbols = rng.choice(["Cu", "Au"], len(atoms))
    atoms.positions += rng.normal(scale=0.08, size=atoms.positions.shape)
    return atoms


MAKERS: dict[str, Callable[[np.random.Generator], Atoms]] = {"wet": wet, "metal": metal}


def labelled(name: str, n: int, rng: np.random.Generator) -> Columns:
    found = [MAKERS[name](rng) for _ in range(n)]
    energy = []
    for atoms in found:
        atoms.calc = EMT()
        energy.append(atoms.get_potential_energy() + sum(REFERENCES[name][s] for s in atoms.symbols))
    return Columns.build(
        numbers=np.concatenate([a.numbers for a in found]),
        pos=np.concatenate([a.positions for a in found]),
        forces=np.concatenate([a.get_forces() for a in found]),
        energy=np.array(energy),
        cell=np.stack([a.cell.array for a in found]),
        pbc=np.stack([a.pbc for a in found]),
        natoms=np.array([len(a) for a in found]),
        group=np.arange(n) // 2,
    )


def publish_dataset(folder: Path, name: str) -> DatasetRef:
    rng = np.random.default_rng([3, *name.encode()])
    splits = {split: labelled(name, n, rng) for split, n in SIZES.items()}
    counts = {str(split): n for split, n in SIZES.items()}
    elements = tuple(REFERENCES[name])
    statistics = DatasetStatistics(
        name=name,
        n_structures=counts,
        n_atoms={str(s): int(c.natoms.sum()) for s, c in splits.items()},
        n_groups=counts,
        elements=elements,
        reference=REFERENCES[name],
        reference_rank=2,
        reference_from="isolated atoms",
        force_rms=float(np.sqrt(np.mean(splits[Split.TRAIN].forces ** 2))),
        energy_std=0.1,
        null_energy_mae=dict.fromkeys(counts, 0.5),
        null_force_mae={str(s): float(np.abs(c.forces).mean()) for s, c in splits.items()},
        max_atoms=4,
        n_quarantined=0,
        reasons={},
    )
    with publishing(folder / name, "test") as place:
        numbers = {8: -431.25, 1: -13.5} if name == "wet" else {29: -1640.5, 79: -3690.75}
        write_bp(place / f"{name}.bp", name, splits, numbers)
        write_record(place / "statistics.json", statistics)
    return DatasetRef(name, str(folder / name))


def task_in(folder: Path) -> Task:
    folder.mkdir(parents=True, exist_ok=True)
    return Task(folder)
