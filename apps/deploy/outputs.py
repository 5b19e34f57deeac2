"""Files of predictions, one class per format, chosen by the suffix of the file.

Results that ASE knows (energy, forces, stress, dipole, charges, magmoms) are in ASE's own fields, so that other
programs find them. Spreads, intervals and all other targets are in ``info`` and ``arrays`` by name, and survive
``ase.io.write``.
"""

from __future__ import annotations

import csv
import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from ase.io.extxyz import write_extxyz

from gfm_pipeline.core.contracts.targets import Level
from gfm_pipeline.core.errors import ConfigError
from gfm_pipeline.core.publish import storage_errors

_OF_ASE = ("energy", "free_energy", "energies", "forces", "stress", "dipole", "charges", "magmoms")
Results = Mapping[str, Any]
Levels = Mapping[str, Level]


def with_results(atoms: Atoms, results: Results, levels: Levels) -> Atoms:
    """Return a copy of a structure with its predictions, for all output formats of ASE."""
    carried = Atoms(
        numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc, info=dict(atoms.info)
    )
    for name, level in levels.items():
        if name in results and name not in _OF_ASE:
            value = np.asarray(results[name])
            if level is Level.ATOM:
                carried.set_array(name, value.reshape(len(atoms), -1) if value.ndim > 1 else value)
            else:
                carried.info[name] = float(value) if value.ndim == 0 else value.reshape(-1)
    if results.get("warnings"):
        carried.info["warnings"] = " ".join(results["warnings"])
    carried.calc = SinglePointCalculator(carried, **{name: results[name] for name in _OF_ASE if name in results})
    return carried


class PredictionFile(ABC):
    """A file of predictions during writing; it gets its name when it is complete.

    Parameters
    ----------
    path
        The file.
    levels
        By name of a result, the object that has one value.
    """

    def __init__(self, path: Path, levels: Levels) -> None:
        self.path, self.levels = path, levels
        self.partial = path.with_name(f".{path.stem}.partial{path.suffix}")
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self.partial.unlink(missing_ok=True)

    @abstractmethod
    def add(self, file: str, record: int, atoms: Atoms, results: Results) -> None:
        """Write the predictions of one structure, the ``record``-th of ``file``."""

    def finish(self) -> None:  # noqa: B027 - formats that write at once have nothing left
        """Write the rest, after all structures were added."""

    def close(self) -> None:  # noqa: B027 - as `finish`
        """Close open files, also after errors."""

    def __enter__(self) -> PredictionFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                with storage_errors(self.path):
                    self.finish()
                    self.close()
                    if self.partial.exists():
                        self.partial.replace(self.path)
        finally:
            self.close()
            self.partial.unlink(missing_ok=True)


class ExtendedXyz(PredictionFile):
    """Extended XYZ, a frame per structure."""

    def __init__(self, path: Path, levels: Levels) -> None:
        super().__init__(path, levels)
        with storage_errors(path):
            self._stream: TextIO = self.partial.open("w", encoding="utf-8")

    def add(self, file: str, record: int, atoms: Atoms, results: Results) -> None:
        """See `PredictionFile.add`."""
        carried = with_results(atoms, results, self.levels)
        carried.info |= {"file": Path(file).name, "record": record}
        with storage_errors(self.path):
            write_extxyz(self._stream, [carried])

    def close(self) -> None:
        """See `PredictionFile.close`."""
        self._stream.close()


class AseDatabase(PredictionFile):
    """A database of ASE (SQLite): a row per structure, spreads and intervals in its ``data``."""

    def __init__(self, path: Path, levels: Levels) -> None:
        super().__init__(path, levels)
        self._rows = connect(self.partial, type="db")

    def add(self, file: str, record: int, atoms: Atoms, results: Results) -> None:
        """See `PredictionFile.add`."""
        carried = with_results(atoms, results, self.levels)
        data = {name: np.asarray(results[name]) for name in self.levels if name in results and name not in _OF_ASE}
        with storage_errors(self.path):
            self._rows.write(carried, data={"file": file, "record": record, **data})


class PredictionTable(PredictionFile):
    """CSV: one row per structure with values of structures, and the largest length of values of atoms."""

    def __init__(self, path: Path, levels: Levels) -> None:
        super().__init__(path, levels)
        with storage_errors(path):
            self._stream: TextIO = self.partial.open("w", encoding="utf-8", newline="")
        self._writer: csv.DictWriter[str] | None = None

    def add(self, file: str, record: int, atoms: Atoms, results: Results) -> None:
        """See `PredictionFile.add`."""
        row = {"file": file, "record": record, "formula": atoms.get_chemical_formula(), "natoms": len(atoms)}
        row |= self._row(results)
        with storage_errors(self.path):
            if self._writer is None:
                self._writer = csv.DictWriter(self._stream, [*row, "warnings"], extrasaction="ignore")
                self._writer.writeheader()
            self._writer.writerow({**row, "warnings": " ".join(results.get("warnings", ()))})

    def close(self) -> None:
        """See `PredictionFile.close`."""
        self._stream.close()

    def _row(self, results: Results) -> dict[str, float]:
        row: dict[str, float] = {}
        for name, level in self.levels.items():
            if name not in results or name == "free_energy":
                continue
            array = np.asarray(results[name], dtype=np.float64)
            if level is Level.ATOM:
                row[f"{name}_largest"] = float(np.linalg.norm(array.reshape(len(array), -1), axis=1).max())
            elif array.ndim:
                row |= {f"{name}_{k}": float(x) for k, x in enumerate(array.reshape(-1))}
            else:
                row[name] = float(array)
        return row


class Columnar(PredictionFile):
    """Parquet: a row per structure, arrays as lists; needs the extra ``parquet``."""

    def __init__(self, path: Path, levels: Levels) -> None:
        if importlib.util.find_spec("pyarrow") is None:
            raise ConfigError("Parquet needs pyarrow.", "pip install 'gfm-pipeline[parquet]', or use .h5 or .extxyz.")
        super().__init__(path, levels)
        self._rows: list[dict[str, Any]] = []

    def add(self, file: str, record: int, atoms: Atoms, results: Results) -> None:
        """See `PredictionFile.add`."""
        row: dict[str, Any] = {"file": file, "record": record, "formula": atoms.get_chemical_formula()}
        row["atomic_numbers"] = atoms.numbers.tolist()
        row |= {
            name: np.asarray(results[name]).reshape(-1).tolist() if np.ndim(results[name]) else results[name]
            for name in self.levels
            if name in results
        }
        self._rows.append(row)

    def finish(self) -> None:
        """See `PredictionFile.finish`."""
        import pandas as pd

        pd.DataFrame(self._rows).to_parquet(self.partial)


class Hdf5(PredictionFile):
    """HDF5: arrays of all structures end to end; ``natoms`` separates values of atoms."""

    def __init__(self, path: Path, levels: Levels) -> None:
        super().__init__(path, levels)
        self._columns: dict[str, list[Any]] = {}

    def add(self, file: str, record: int, atoms: Atoms, results: Results) -> None:
        """See `PredictionFile.add`."""
        own = {"file": file, "record": record, "natoms": len(atoms), "atomic_numbers": atoms.numbers}
        for name, value in {**own, **{name: results[name] for name in self.levels if name in results}}.items():
            self._columns.setdefault(name, []).append(value)

    def finish(self) -> None:
        """See `PredictionFile.finish`."""
        import h5py

        with h5py.File(self.partial, "w") as store:
            for name, values in self._columns.items():
                if name == "file":
                    store.create_dataset(name, data=np.array(values, dtype=h5py.string_dtype()))
                    continue
                of_atoms = name == "atomic_numbers" or self.levels.get(name) is Level.ATOM
                store.create_dataset(name, data=np.concatenate(values) if of_atoms else np.stack(values))


OUTPUTS: Mapping[str, type[PredictionFile]] = {
    ".extxyz": ExtendedXyz,
    ".xyz": ExtendedXyz,
    ".db": AseDatabase,
    ".csv": PredictionTable,
    ".parquet": Columnar,
    ".h5": Hdf5,
    ".hdf5": Hdf5,
}


def open_output(path: Path, levels: Levels, *, overwrite: bool = False) -> PredictionFile:
    """Return the file of predictions ``path``, whose suffix determines the format.

    Raises
    ------
    ConfigError
        For an unknown suffix, an existing file, or a missing package.
    """
    if path.suffix not in OUTPUTS:
        raise ConfigError(f"Predictions cannot be written as {path.name}.", f"Use one of: {', '.join(OUTPUTS)}.")
    if path.exists() and not overwrite:
        raise ConfigError(f"{path} exists.", "Give another name, or --overwrite.")
    return OUTPUTS[path.suffix](path, levels)
