"""Training data and test sets of `uncertainty.py`, and which test structures are out of domain.

A criterion that no model enters decides that. A structure is out of domain if the temperature of its simulation is
above that of the training data (`TestSet.hotter`), if no training structure has its elements in this order, or if a
distance between two of its atoms is outside the range that the training structures have for these two (`beyond`). Sets
of the same simulation as the training data are like these by declaration: by chance, 2 % of the structures of ethanol's
molecular dynamics have such a distance too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.io import read
from numpy.typing import NDArray

MOST = 400  # structures of a set
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class TestSet:
    """Some structures of a file: the records from ``first`` to ``end``, of these those with a ``config_type``."""

    file: str
    config_type: str | None = None
    first: int = 0
    end: int | None = None
    hotter: bool = False


@dataclass(frozen=True)
class Molecule:
    """Training data, and test sets: the first one, and those named in ``like``, are like the training data.

    The last ``held`` structures of the training file are not trained on, and are the set ``held back``. ``graphs`` are
    those that each member is trained on.
    """

    train: str
    validation: float
    graphs: int
    sets: dict[str, TestSet]
    held: int = 0
    like: tuple[str, ...] = ()
    joined: tuple[str, tuple[str, ...]] | None = None  # a name for several sets together, a whole file

    def trained(self, folder: Path) -> list[Atoms]:
        """Return the structures of the campaign: of its training, validation and test splits."""
        found: list[Atoms] = read(folder / self.train, ":")
        return found[: len(found) - self.held]


MOLECULES = {
    "ethanol": Molecule(
        "ethanol/train.xyz",
        0.2,
        24000,
        {
            "molecular dynamics": TestSet("ethanol/test_MD.xyz"),
            "methanol": TestSet("ethanol/test_eth_meth.xyz", "methanol"),
            "hydrogen removal": TestSet("ethanol/test_H_removal.xyz"),
            "normal mode 874": TestSet("ethanol/test_norm_mode_874.xyz"),
            "normal mode 3005": TestSet("ethanol/test_norm_mode_3005.xyz"),
            "dimers": TestSet("ethanol/test_dimers.xyz"),
        },
        like=("molecular dynamics",),
    ),
    # The published test sets are not in the folder. The file of mixed temperatures has three blocks without a label:
    # 300 K, then 600 K from record 167, then 1200 K from record 334, where the energies step up.
    "3bpa": Molecule(
        "3bpa/train_300K.xyz",
        0.25,
        6000,
        {
            "mixed, 300 K": TestSet("3bpa/train_mixedT.xyz", end=167),
            "mixed, 600 K": TestSet("3bpa/train_mixedT.xyz", first=167, end=334, hotter=True),
            "mixed, 1200 K": TestSet("3bpa/train_mixedT.xyz", first=334, hotter=True),
        },
        held=100,
        like=("held back", "mixed, 300 K"),
        joined=("mixed, whole file", ("mixed, 300 K", "mixed, 600 K", "mixed, 1200 K")),
    ),
}


def structures(folder: Path, one: TestSet, known: set[bytes]) -> list[Atoms]:
    """Return the structures of a set that are not ``known`` by their positions, at most `MOST`, evenly from all."""
    found = [a for a in read(folder / one.file, ":")[one.first : one.end] if a.positions.tobytes() not in known]
    found = [a for a in found if one.config_type in (None, a.info.get("config_type"))]
    return found[:: max(1, len(found) // MOST)][:MOST]


def beyond(frames: list[Atoms], training: list[Atoms]) -> Flags:
    """Return whether each structure has another composition, or a distance outside the range that training has."""

    def lengths(of: list[Atoms]) -> NDArray[np.float64]:
        return np.stack([atoms.get_all_distances()[np.triu_indices(len(atoms), 1)] for atoms in of])

    found = np.ones(len(frames), dtype=bool)
    for k, atoms in enumerate(frames):
        if alike := [one for one in training if tuple(one.numbers) == tuple(atoms.numbers)]:
            ranges, own = lengths(alike), lengths([atoms])[0]
            found[k] = ((own < ranges.min(0)) | (own > ranges.max(0))).any()
    return found


@dataclass(frozen=True)
class Frames:
    """The structures of a set, and which of them are out of domain."""

    name: str
    frames: list[Atoms]
    outside: Flags


def sets(molecule: Molecule, folder: Path, only_like: bool = False) -> Iterator[Frames]:
    """Yield the test sets, first those like the training data; none has a structure of the training file."""
    training = molecule.trained(folder)
    every = read(folder / molecule.train, ":")
    if molecule.held:
        yield Frames("held back", every[-molecule.held :], np.zeros(molecule.held, dtype=bool))
    known = {atoms.positions.tobytes() for atoms in every}
    for name, one in molecule.sets.items():
        if only_like and name not in molecule.like:
            continue
        found = structures(folder, one, known)
        decided = name in molecule.like or one.hotter
        yield Frames(name, found, np.full(len(found), one.hotter) if decided else beyond(found, training))
