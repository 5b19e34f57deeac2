"""The published splits of ``benchmarks/accuracy.py``: where their files are, and files with the same records for all.

Every side reads the same three extended XYZ files. Their energies are those of the data less one number per element,
fitted to the training structures in double precision, so that no side loses digits of large total energies in single
precision.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from numpy.typing import NDArray

VALIDATION = 20  # one of so many training structures validates, on every side
SEED = 0  # of that choice
Published = Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Frames:
    """Training and test structures of a set, as the data give them."""

    train: Sequence[Atoms]
    test: Sequence[Atoms]


@dataclass(frozen=True)
class PublishedSplit:
    """One set: its training and test structures, and what others published.

    Parameters
    ----------
    summary
        The split in words.
    read
        Reads it from the folder of all sets.
    cutoff
        Neighbour cutoff of all sides, Angstrom.
    published
        Energy (meV per atom) and force error (meV/Angstrom) by the name of a model.
    measure
        ``rmse`` or ``mae``, of what is published.
    remark
        How the published figures relate to this split.
    """

    summary: str
    read: Callable[[Path], Frames]
    cutoff: float = 5.0
    published: Published = field(default_factory=dict)
    measure: str = "rmse"
    remark: str = ""


def _xyz(train: str, test: str) -> Callable[[Path], Frames]:
    def read(data: Path) -> Frames:
        return Frames(*(ase.io.read(data / name, ":", format="extxyz") for name in (train, test)))

    return read


def _water(data: Path) -> Frames:
    """Return DeePMD's water: 80 frames of one system, of which every fifth tests."""
    folder = data / "water" / "data_0"
    names = (folder / "type_map.raw").read_text().split()
    symbols = [names[int(kind)] for kind in (folder / "type.raw").read_text().split()]
    load = {name: np.load(folder / "set.000" / f"{name}.npy") for name in ("box", "coord", "energy", "force")}
    frames = []
    for box, coord, energy, force in zip(*load.values(), strict=True):
        atoms = Atoms(symbols, positions=coord.reshape(-1, 3), cell=box.reshape(3, 3), pbc=True)
        values = {"energy": float(np.ravel(energy)[0]), "forces": force.reshape(-1, 3)}
        atoms.calc = SinglePointCalculator(atoms, **values)  # type: ignore[no-untyped-call]
        frames.append(atoms)
    return Frames([a for k, a in enumerate(frames) if k % 5], frames[::5])


def _per_atom(atoms: int, figures: Published) -> Published:
    """Convert published errors of total energies."""
    return {name: (energy / atoms, force) for name, (energy, force) in figures.items()}


SETS: dict[str, PublishedSplit] = {
    "acac": PublishedSplit(
        "acetylacetone, 500 structures at 300 K; tested on 650 others at 300 K",
        _xyz("acac/train_300K.xyz", "acac/test_MD_300K.xyz"),
        published=_per_atom(15, {"MACE": (0.9, 5.1), "NequIP": (0.81, 5.9)}),
        remark="The same split.",
    ),
    "3BPA": PublishedSplit(
        "500 structures at 300 K; tested on the 500 of train_mixedT: 300, 600 and 1,200 K together",
        _xyz("3bpa/train_300K.xyz", "3bpa/train_mixedT.xyz"),
        published=_per_atom(
            27, {"MACE, 300 K": (3.0, 8.8), "MACE L=0, 300 K": (4.5, 14.6), "MACE, 1,200 K": (29.8, 62.0)}
        ),
        remark="Published are other test sets of one temperature each: ours mixes all three.",
    ),
    "ethanol": PublishedSplit(
        "1,000 structures of rMD17; tested on 1,000 others",
        _xyz("ethanol/train.xyz", "ethanol/test_MD.xyz"),
        published=_per_atom(9, {"MACE": (0.4, 2.1), "NequIP": (0.4, 2.8), "PaiNN": (2.7, 10.0)}),
        measure="mae",
        remark="Published are means of absolute errors after 950 structures of another choice from rMD17.",
    ),
    "Ni": PublishedSplit(
        "mlearn nickel, its own split",
        _xyz("mlearn/Ni_train.xyz", "mlearn/Ni_test.xyz"),
        published={"linear YE3T-149": (0.64, 36.0), "linear ACE-127": (1.53, 90.0)},
        remark="The same data (arXiv:2609.31895).",
    ),
    "Cu": PublishedSplit(
        "mlearn copper, its own split",
        _xyz("mlearn/Cu_train.xyz", "mlearn/Cu_test.xyz"),
        remark="Zuo 2020 gives force errors of 10 (MTP) to 80 meV/A (SNAP).",
    ),
    "Li": PublishedSplit(
        "mlearn lithium, its own split",
        _xyz("mlearn/Li_train.xyz", "mlearn/Li_test.xyz"),
        remark="Zuo 2020 gives force errors of 10 (MTP) to 60 meV/A (NNP).",
    ),
    "water": PublishedSplit(
        "DeePMD's water, 64 frames of 192 atoms; tested on 16 others",
        _water,
        remark="Nothing is published for this split.",
    ),
}  # fmt: skip


def labels(atoms: Atoms) -> tuple[float, NDArray[np.float64]]:
    """Return energy (eV) and forces (eV/Angstrom) of a structure, whatever their key is called."""
    found = {} if atoms.calc is None else atoms.calc.results
    forces = found.get("forces", atoms.arrays.get("force"))
    if "energy" not in found or forces is None:
        raise ValueError("a structure has no energy or no forces")
    return float(found["energy"]), np.asarray(forces, dtype=np.float64)


def energies_of_elements(structures: Sequence[Atoms]) -> dict[str, float]:
    """Return one energy per element (eV), by least squares of least norm."""
    symbols = sorted({symbol for atoms in structures for symbol in atoms.symbols})
    counts = np.array([[list(atoms.symbols).count(symbol) for symbol in symbols] for atoms in structures])
    energies = np.array([labels(atoms)[0] for atoms in structures])
    return dict(zip(symbols, np.linalg.lstsq(counts, energies, rcond=1e-9)[0].tolist(), strict=True))


def write_split(chosen: PublishedSplit, data: Path, folder: Path) -> dict[str, Path]:
    """Write training, validation and test structures as extended XYZ, and return the files by split."""
    frames = chosen.read(data)
    references = energies_of_elements(frames.train)
    order = np.random.default_rng(SEED).permutation(len(frames.train))
    held = max(1, len(order) // VALIDATION)
    parts = {
        "validation": [frames.train[k] for k in order[:held]],
        "train": [frames.train[k] for k in order[held:]],
        "test": list(frames.test),
    }
    files = {}
    for name, structures in parts.items():
        bare = []
        for atoms in structures:
            energy, forces = labels(atoms)
            energy -= sum(references[symbol] for symbol in atoms.symbols)
            cell = atoms.cell if atoms.pbc.any() else None
            one = Atoms(atoms.symbols, atoms.positions, cell=cell, pbc=atoms.pbc)
            one.calc = SinglePointCalculator(one, energy=energy, forces=forces)  # type: ignore[no-untyped-call]
            bare.append(one)
        files[name] = folder / f"{name}.xyz"
        ase.io.write(files[name], bare, format="extxyz")
    return files
