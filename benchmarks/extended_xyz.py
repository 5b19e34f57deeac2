"""Our parser of extended XYZ against ASE, libextxyz and oxyz, on the same files in the same run.

    pip install extxyz oxyz        # optional; a reader that is not installed is named and left out
    python benchmarks/extended_xyz.py [FILE ...]

Without files, 400 frames of 15, 40 and 107 atoms each are written and read. Each reader takes each file five times,
in turns; the median CPU time counts. Prints atoms per second of each reader, and ours over its rate. Ours and ASE's
give labels with units and keys; libextxyz and oxyz give arrays by the names in the file. Without files, also what
reading in a process of its own, as ingest does, adds to each of 8,000 frames of 9 atoms.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import iread, write

from gfm_pipeline.apps.ingest.files.isolation import isolated
from gfm_pipeline.apps.ingest.readers.registry import get_reader
from gfm_pipeline.apps.ingest.records import Record
from gfm_pipeline.core.contracts.data import SourceSettings
from gfm_pipeline.core.contracts.ingest.reading import ReadLimits


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


def with_libextxyz(path: Path) -> int:
    """Return the number of atoms in a file, read by the parser of the format's authors."""
    return sum(int(frame.natoms) for frame in import_module("extxyz").iread_dicts(str(path)))


def with_oxyz(path: Path) -> int:
    """Return the number of atoms in a file, read by oxyz."""
    return sum(int(frame.n_atoms) for frame in import_module("oxyz").iter_frames(str(path)))


def with_child(path: Path) -> int:
    """Return the number of atoms in a file, read as records by another process."""
    source = SourceSettings("bench", "ase", (str(path),), {"format": "extxyz"})
    records = isolated(get_reader("ase"), ReadLimits()).read(source, 0, 1, 0)
    return sum(len(record.numbers) for record in records if isinstance(record, Record))


def seconds(read: Callable[[Path], int], path: Path) -> tuple[float, int]:
    """Return the CPU time of one pass, that of its children included, and the number of atoms."""
    started = _cpu()
    atoms = read(path)
    return _cpu() - started, atoms


def _cpu() -> float:
    used = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


READERS: dict[str, tuple[str, Callable[[Path], int]]] = {
    "ours": ("gfm_pipeline", with_ours),
    "ASE": ("ase", with_ase),
    "libextxyz": ("extxyz", with_libextxyz),
    "oxyz": ("oxyz", with_oxyz),
}


def main(files: list[Path]) -> None:
    """Print one line per file and reader."""
    missing = [module for module, _ in READERS.values() if find_spec(module) is None]
    if missing:
        print(f"Not installed, so not compared: {', '.join(missing)}.")
    for path in files:
        times: dict[str, list[float]] = {}
        faults: dict[str, str] = {}
        for _ in range(5):
            for name, (module, read) in READERS.items():
                if module in missing or name in faults:
                    continue
                try:
                    used, atoms = seconds(read, path)
                except Exception as error:  # noqa: BLE001 - a peer that cannot read a file is a result
                    faults[name] = f"{type(error).__name__}: {error}"
                    continue
                times.setdefault(name, []).append(used)
                if name == "ours":
                    expected = atoms
                elif atoms != expected:
                    faults[name] = f"{atoms} atoms, where we read {expected}"
        ours = median(times["ours"])
        for name, taken in times.items():
            if name not in faults:
                rate, ratio = expected / median(taken), median(taken) / ours
                print(f"{path.name:24} {name:10} {rate:12,.0f} atoms/s   ours is {ratio:5.2f} times as fast")
        for name, fault in faults.items():
            print(f"{path.name:24} {name:10} does not read the file: {fault}")


def apart(path: Path, frames: int) -> None:
    """Print what a frame costs in this process, and in a child of it."""
    rounds = [(seconds(with_ours, path)[0], seconds(with_child, path)[0]) for _ in range(5)]
    here, there = (min(r[k] for r in rounds) / frames * 1e6 for k in range(2))
    print(f"{path.name:24} {here:.1f} us a frame in this process, {there:.1f} us in a process of its own")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="*", metavar="FILE")
    given = parser.parse_args().files
    if given:
        main(given)
    else:
        with tempfile.TemporaryDirectory() as folder:
            main([generate(Path(folder, f"{n}-atoms.extxyz"), n) for n in (15, 40, 107)])
            apart(generate(Path(folder, "9-atoms.extxyz"), 9, 8000), 8000)
