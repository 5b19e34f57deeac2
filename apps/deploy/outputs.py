"""Files of predictions, one class per format, chosen by the suffix of the file.

Results that ASE knows (energy, forces, stress, dipole, charges, magmoms) are in ASE's own fields, so that other
programs find them. Spreads, intervals and all other targets are in ``info`` and ``arrays`` by name, and survive
``ase.io.write``.
"""

from __future__ import annotations

import csv
import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from ase.io.extxyz import write_extxyz
from numpy.typing import NDArray

from gfm_pipeline.core.contracts.targets import Level
from gfm_pipeline.core.errors import ConfigError
from gfm_pipeline.core.publish import check_output, storage_errors

CHUNK = 1000  # structures in memory, in formats that do not write one at a time
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
    """Parquet: a row per structure, arrays as lists; needs the extra ``parquet``.

    A row group of `CHUNK` structures is in memory at a time. A result that no structure of the first group has is a
    list of numbers.
    """

    def __init__(self, path: Path, levels: Levels) -> None:
        if importlib.util.find_spec("pyarrow") is None:
            raise ConfigError("Parquet needs pyarrow.", "pip install 'gfm-pipeline[parquet]', or use .h5 or .extxyz.")
        super().__init__(path, levels)
        self._rows: list[dict[str, Any]] = []
        self._writer: Any = None

    def add(self, file: str, record: int, atoms: Atoms, results: Results) -> None:
        """See `PredictionFile.add`."""
        row: dict[str, Any] = {"file": file, "record": record, "formula": atoms.get_chemical_formula()}
        row["atomic_numbers"] = atoms.numbers.tolist()
        for name in self.levels:
            value = results.get(name)
            row[name] = np.reshape(value, -1).tolist() if value is not None and np.ndim(value) else value
        self._rows.append(row)
        if len(self._rows) == CHUNK:
            with storage_errors(self.path):
                self._write()

    def _write(self) -> None:
        pa: Any = import_module("pyarrow")
        parquet: Any = import_module("pyarrow.parquet")
        if not self._rows:
            return
        if self._writer is None:
            fields = pa.Table.from_pylist(self._rows).schema
            numbers = pa.list_(pa.float64())
            schema = pa.schema([f.with_type(numbers) if pa.types.is_null(f.type) else f for f in fields])
            self._writer = parquet.ParquetWriter(self.partial, schema)
        self._writer.write_table(pa.Table.from_pylist(self._rows, self._writer.schema))
        self._rows = []

    def finish(self) -> None:
        """See `PredictionFile.finish`."""
        self._write()

    def close(self) -> None:
        """See `PredictionFile.close`."""
        if self._writer is not None:
            self._writer.close()


class Hdf5(PredictionFile):
    """HDF5: arrays of all structures end to end; ``natoms`` separates values of atoms.

    The values of `CHUNK` structures are in memory at a time. A structure without a result has NaN in its place.
    """

    def __init__(self, path: Path, levels: Levels) -> None:
        import h5py

        super().__init__(path, levels)
        with storage_errors(path):
            self._store = h5py.File(self.partial, "w")
        self._text = h5py.string_dtype()
        self._own: dict[str, list[Any]] = {"file": [], "record": [], "natoms": [], "atomic_numbers": []}
        self._results: list[Results] = []
        self._structures = self._atoms = 0  # written so far

    def add(self, file: str, record: int, atoms: Atoms, results: Results) -> None:
        """See `PredictionFile.add`."""
        for column, value in zip(self._own.values(), (file, record, len(atoms), atoms.numbers), strict=True):
            column.append(value)
        self._results.append({name: results[name] for name in self.levels if name in results})
        if len(self._results) == CHUNK:
            with storage_errors(self.path):
                self._write()

    def _write(self) -> None:
        if not self._results:
            return
        sizes = self._own["natoms"]
        self._append("file", np.array(self._own["file"], dtype=self._text), self._structures)
        for name in ("record", "natoms"):
            self._append(name, np.array(self._own[name]), self._structures)
        self._append("atomic_numbers", np.concatenate(self._own["atomic_numbers"]), self._atoms)
        for name, level in self.levels.items():
            known = next((np.asarray(one[name]) for one in self._results if name in one), None)
            if known is None and name not in self._store:
                continue
            of_atoms = level is Level.ATOM
            shape = self._store[name].shape[1:] if known is None else known.shape[1:] if of_atoms else known.shape
            rows = [
                one[name] if name in one else np.full((n, *shape) if of_atoms else shape, np.nan)
                for n, one in zip(sizes, self._results, strict=True)
            ]
            joined = np.concatenate(rows) if of_atoms else np.stack(rows)
            self._append(name, joined, self._atoms if of_atoms else self._structures)
        self._structures, self._atoms = self._structures + len(sizes), self._atoms + sum(sizes)
        self._own, self._results = {name: [] for name in self._own}, []

    def _append(self, name: str, values: NDArray[Any], before: int) -> None:
        """Write values after the first ``before`` entries of an array; NaN stands for entries that were not given."""
        if name not in self._store:
            filled = {"fillvalue": np.nan} if values.dtype.kind == "f" else {}
            shape = values.shape[1:]
            self._store.create_dataset(
                name, (before, *shape), maxshape=(None, *shape), dtype=values.dtype, chunks=True, **filled
            )
        array = self._store[name]
        array.resize(before + len(values), axis=0)
        array[before:] = values

    def finish(self) -> None:
        """See `PredictionFile.finish`."""
        self._write()

    def close(self) -> None:
        """See `PredictionFile.close`."""
        self._store.close()


OUTPUTS: Mapping[str, type[PredictionFile]] = {
    ".extxyz": ExtendedXyz,
    ".xyz": ExtendedXyz,
    ".db": AseDatabase,
    ".csv": PredictionTable,
    ".parquet": Columnar,
    ".h5": Hdf5,
    ".hdf5": Hdf5,
}


def open_output(path: Path, levels: Levels, inputs: Iterable[str] = (), *, overwrite: bool = False) -> PredictionFile:
    """Return the file of predictions ``path``, whose suffix determines the format.

    Raises
    ------
    ConfigError
        For an unknown suffix, an existing file, one of the ``inputs``, or a missing package.
    """
    if path.suffix not in OUTPUTS:
        raise ConfigError(f"Predictions cannot be written as {path.name}.", f"Use one of: {', '.join(OUTPUTS)}.")
    check_output(path, inputs, overwrite=overwrite)
    return OUTPUTS[path.suffix](path, levels)
