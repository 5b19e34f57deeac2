"""Our parser of extended XYZ against `ase.io.iread`, on the same files in the same run.

    python benchmarks/extxyz.py [FILE ...]

Without files, 400 frames of 15, 40 and 107 atoms each are written and read. Each reader takes each file three times,
in turns; the best CPU time counts. Prints atoms a second and the ratio.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import iread, write

from gfm_pipeline.apps.ingest.readers.registry import get_reader
from gfm_pipeline.apps.ingest.records import Record
from gfm_pipeline.core.contracts.data import SourceSettings


def generate(path: Path, n: int, frames: int = 400) -> Path:
    """Write frames of ``n`` atoms with energy and forces."""
    rng = np.random.default_rng(n)
    images = []
    for _ in range(frames):
        atoms = Atoms(rng.choice([1, 6, 8, 29], n), rng.normal(size=(n, 3)) * 5, cell=20 * np.eye(3), pbc=True)
        atoms.calc = SinglePointCalculator(atoms, energy=rng.normal(), forces=rng.normal(size=(n, 3)))
        atoms.info["config_type"] = "bulk"
        images.append(atoms)
    write(path, images)
    return path


def with_ase(path: Path) -> int:
    """Return the number of atoms in a file, read by ASE, labels included."""
    return sum(len(atoms) for atoms in iread(path, index=":"))


def with_ours(path: Path) -> int:
    """Return the number of atoms in a file, read as records."""
    source = SourceSettings("bench", "ase", (str(path),), {"format": "extxyz"})
    records = get_reader("ase").read(source, 0, 1, 0)
    return sum(len(record.numbers) for record in records if isinstance(record, Record))


def seconds(read: Callable[[Path], int], path: Path) -> tuple[float, int]:
    """Return the CPU time of one pass, and the number of atoms."""
    started = time.process_time()
    atoms = read(path)
    return time.process_time() - started, atoms


def main(files: list[Path]) -> None:
    """Print one line a file."""
    for path in files:
        rounds = [(seconds(with_ase, path), seconds(with_ours, path)) for _ in range(3)]
        (theirs, atoms), (ours, same) = min(r[0] for r in rounds), min(r[1] for r in rounds)
        if atoms != same:
            raise SystemExit(f"{path}: ASE reads {atoms} atoms, we read {same}.")
        print(f"{path.name:24} ASE {atoms / theirs:10,.0f} ours {atoms / ours:10,.0f} atoms/s  {theirs / ours:5.1f} x")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="*", metavar="FILE")
    given = parser.parse_args().files
    if given:
        main(given)
    else:
        with tempfile.TemporaryDirectory() as folder:
            main([generate(Path(folder, f"{n}-atoms.extxyz"), n) for n in (15, 40, 107)])
