"""The columnar ADIOS2 layout HydraGNN reads and writes, one BP5 file with one step.

For each label (``trainset``, ``valset``, ``testset``) and key k: variable ``<label>/<k>`` holds the samples end to end
along one axis, attribute ``<label>/<k>/variable_dim`` names that axis, and variables ``<label>/<k>/variable_count`` and
``variable_offset`` [ndata] give each sample's extent on it. The axis is the one whose length differs between samples,
and 0 if no length differs (or there is one sample). A reader must therefore read the attribute and not guess. The
layout is described by HydraGNN's ``AdiosWriter``. This module reads; `gfm_pipeline.apps.dataset.store.write` writes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from adios2 import bindings as adios
from numpy.typing import NDArray

from gfm_pipeline.apps.dataset.store.columns import Columns, flat_ranges, weight_key
from gfm_pipeline.core.contracts.data import Split
from gfm_pipeline.core.contracts.targets import SHAPES, Level, Rank
from gfm_pipeline.core.errors import DataError, IntegrityError
from gfm_pipeline.core.publish import manifest_lists, verify

TARGETS = "targets"  # attribute: names of targets other than energy and forces; ``targets/NAME/FACT`` describes each
WEIGHTS = "weights"  # attribute: names of targets whose labels have weights in the loss, one per structure
_DTYPES: dict[str, type[np.generic]] = {
    "float": np.float32,
    "double": np.float64,
    "int8_t": np.int8,
    "int16_t": np.int16,
    "int32_t": np.int32,
    "int64_t": np.int64,
    "uint8_t": np.uint8,
    "uint16_t": np.uint16,
    "uint32_t": np.uint32,
    "uint64_t": np.uint64,
}


@dataclass(frozen=True)
class Variable:
    """One key of one label: ``values`` end to end on ``axis``, sample i at ``offset[i]``, ``count[i]`` long."""

    values: NDArray[Any]
    axis: int
    count: NDArray[np.int64]
    offset: NDArray[np.int64]

    def sample(self, index: int) -> NDArray[Any]:
        """Return the array of one sample."""
        start = int(self.offset[index])
        piece = np.take(self.values, np.arange(start, start + int(self.count[index])), axis=self.axis)
        return np.asarray(piece)

    def rows(self) -> NDArray[Any]:
        """Return the samples in order along ``axis``, which is moved to the front."""
        values = np.moveaxis(self.values, self.axis, 0)
        expected = np.concatenate([[0], np.cumsum(self.count)[:-1]]) if len(self.count) else self.offset
        if np.array_equal(self.offset, expected) and int(self.count.sum()) == len(values):
            return np.ascontiguousarray(values)
        return np.ascontiguousarray(values[flat_ranges(self.offset, self.count)])


class BpFile:
    """A BP file in HydraGNN's layout, opened for reading.

    ADIOS2 waits for ever for the missing data of a truncated file. So before opening a file of a published folder, this
    class compares sizes with the manifest. A file without manifest must hold at least as many bytes as its variables.
    If a file passes both checks and reading hangs, the task's heartbeat timeout ends the process.

    Raises
    ------
    IntegrityError
        When the file differs from its manifest, ADIOS2 cannot open it, or it has another layout.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            raise IntegrityError(f"{path} does not exist.")
        if manifest_lists(path.parent, path.name):
            verify(path.parent)
        self._context = adios.ADIOS()
        self._io = self._context.DeclareIO("read")
        self._io.SetEngine("BP5" if path.is_dir() and (path / "mmd.0").exists() else "BP4")
        self._io.SetParameter("Threads", "1")  # the default starts threads for every read
        try:
            self.engine = self._io.Open(str(path), adios.Mode.ReadRandomAccess)
            self._variables: dict[str, dict[str, str]] = self._io.AvailableVariables()
            self._attributes: dict[str, dict[str, str]] = self._io.AvailableAttributes()
        except RuntimeError as error:
            raise IntegrityError(f"ADIOS2 cannot open {path}: {str(error).splitlines()[0]}.") from error
        self._check_size()

    def _check_size(self) -> None:
        """Refuse a file with fewer bytes of data than its variables have."""
        if not self.path.is_dir():
            return
        size = sum(file.stat().st_size for file in self.path.glob("data.*"))
        needed = 0
        for name, about in self._variables.items():
            if about["Type"] in _DTYPES:
                needed += math.prod(self._io.InquireVariable(name).Shape()) * np.dtype(_DTYPES[about["Type"]]).itemsize
        if size < needed:
            self.close()
            raise IntegrityError(
                f"{self.path} is truncated: its variables need {needed} bytes of data, and it has {size}.",
                "Copy it again. Compressed variables are not read.",
            )

    def close(self) -> None:
        """Close the file."""
        self.engine.Close()

    def __enter__(self) -> BpFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def variable(self, name: str) -> Any:
        """Return ADIOS2's variable ``name``, to select from; raises IntegrityError when it is missing."""
        if name not in self._variables:
            raise IntegrityError(f"{self.path} has no variable {name}.", "Is it a file in HydraGNN's layout?")
        return self._io.InquireVariable(name)

    def dtype(self, name: str) -> type[np.generic]:
        """Return the type of a variable; raises IntegrityError for types outside this layout."""
        kind = self._variables[name]["Type"]
        if kind not in _DTYPES:
            raise IntegrityError(f"{self.path}: {name} has type {kind}, which this layout does not use.")
        return _DTYPES[kind]

    def labels(self) -> list[str]:
        """Return the labels that hold samples."""
        return [str(label) for label in Split if f"{label}/ndata" in self._attributes]

    def keys(self, label: str) -> list[str]:
        """Return the keys of ``label``."""
        prefix, suffix = f"{label}/", "/variable_count"
        return [n[len(prefix) : -len(suffix)] for n in self._variables if n.startswith(prefix) and n.endswith(suffix)]

    def attribute(self, name: str) -> NDArray[Any] | list[str]:
        """Return an attribute as array, or as list of texts.

        Raises
        ------
        IntegrityError
            When it is missing.
        """
        if name not in self._attributes:
            raise IntegrityError(f"{self.path} has no attribute {name}.", "Is it a file in HydraGNN's layout?")
        attribute = self._io.InquireAttribute(name)
        if self._attributes[name]["Type"] == "string":
            return [str(text) for text in attribute.DataString()]
        return np.atleast_1d(np.asarray(attribute.Data()))

    def targets(self) -> dict[str, tuple[Level, Rank]]:
        """Return level and rank of the targets other than energy and forces; nothing for files without them.

        Raises
        ------
        IntegrityError
            When a level or rank is unknown.
        """
        found: dict[str, tuple[Level, Rank]] = {}
        for name in self.attribute(TARGETS) if TARGETS in self._attributes else ():
            level, rank = (str(self.attribute(f"{TARGETS}/{name}/{fact}")[0]) for fact in ("level", "rank"))
            if level not in list(Level) or rank not in list(Rank):
                raise IntegrityError(f"{self.path}: target {name} is a {rank} of a {level}, which is not known here.")
            found[str(name)] = (Level(level), Rank(rank))
        return found

    def weighted(self) -> tuple[str, ...]:
        """Return the names of targets whose labels have weights; nothing for files without weights."""
        return tuple(map(str, self.attribute(WEIGHTS))) if WEIGHTS in self._attributes else ()

    def read(self, label: str, key: str) -> Variable:
        """Read one key of all samples of ``label``.

        Raises
        ------
        IntegrityError
            When the key is missing or its counts do not fit its shape.
        """
        name = f"{label}/{key}"
        axis = int(np.asarray(self.attribute(f"{name}/variable_dim")).ravel()[0])
        values = self._get(name)
        count = self._get(f"{name}/variable_count").ravel().astype(np.int64)
        offset = self._get(f"{name}/variable_offset").ravel().astype(np.int64)
        length = values.shape[axis] if axis < values.ndim else -1
        if len(count) != len(offset) or (len(count) and int((offset + count).max()) > length):
            raise IntegrityError(f"{self.path} is damaged: {name} is shorter than its counts say.")
        return Variable(values, axis, count, offset)

    def window(self, label: str, key: str, first: int, n: int) -> Variable:
        """Read one key of samples ``first`` to ``first + n`` of ``label``; ``offset`` counts from their first.

        Memory is that of these samples if they lie near each other, as with every known writer.

        Raises
        ------
        IntegrityError
            When the key is missing or its counts do not fit its shape.
        """
        name = f"{label}/{key}"
        axis = int(np.asarray(self.attribute(f"{name}/variable_dim")).ravel()[0])
        shape = list(self.variable(name).Shape())
        count, offset = (
            self._get(f"{name}/variable_{what}", ([first], [n])).ravel().astype(np.int64)
            for what in ("count", "offset")
        )
        low, high = (int(offset.min()), int((offset + count).max())) if n else (0, 0)
        if axis >= len(shape) or low < 0 or (count < 0).any() or high > shape[axis]:
            raise IntegrityError(f"{self.path} is damaged: {name} is shorter than its counts say.")
        start, extent = [0] * len(shape), list(shape)
        start[axis], extent[axis] = low, high - low
        return Variable(self._get(name, (start, extent)), axis, count, offset - low)

    def _get(self, name: str, where: tuple[list[int], list[int]] | None = None) -> NDArray[Any]:
        variable = self.variable(name)
        values = np.empty(variable.Shape() if where is None else where[1], dtype=self.dtype(name))
        if values.size:
            try:
                if where is not None:
                    variable.SetSelection(where)
                self.engine.Get(variable, values, adios.Mode.Sync)
            except RuntimeError as error:
                raise IntegrityError(f"{self.path}: {name} cannot be read: {str(error).splitlines()[0]}.") from error
        return values


def by_level(targets: Mapping[str, tuple[Level, Rank]], read: Callable[[str], NDArray[Any]]) -> dict[str, Any]:
    """Return the labels of targets for `Columns.build`; ``read`` returns those of one target, one row per value."""
    found: dict[str, dict[str, NDArray[Any]]] = {"graph_labels": {}, "atom_labels": {}}
    for name, (level, rank) in targets.items():
        array = read(name)
        found[f"{level}_labels"][name] = array.reshape(len(array), *SHAPES[rank])
    return found


def read_columns(file: BpFile, label: Split, first: int = 0, n: int | None = None) -> Columns:
    """Read one split of a file in HydraGNN's layout, ours or HydraGNN's own; or ``n`` samples of it from ``first``.

    Files without ``atomic_numbers`` give it as column 0 of ``x``; without ``natoms`` it is the row count
    of ``pos``; without ``forces``, ``cell`` or ``pbc`` these are NaN, zero and False.

    Raises
    ------
    IntegrityError
        When a needed key is missing or damaged.
    """
    keys = set(file.keys(label))

    def read(key: str) -> Variable:
        return file.read(label, key) if length is None else file.window(label, key, first, length)

    length = n
    pos = read("pos")
    n = len(pos.count)
    natoms = pos.count
    n_atoms = int(natoms.sum())

    def flat(key: str, default: NDArray[Any]) -> NDArray[Any]:
        return read(key).rows().reshape(default.shape) if key in keys else default

    try:
        numbers = read("atomic_numbers" if "atomic_numbers" in keys else "x").rows()
        return Columns.build(
            numbers=np.rint(numbers.reshape(n_atoms, -1)[:, 0]),
            pos=pos.rows(),
            forces=flat("forces", np.full((n_atoms, 3), np.nan)),
            energy=read("energy").rows().reshape(n),
            cell=flat("cell", np.zeros((n, 3, 3))),
            pbc=flat("pbc", np.zeros((n, 3))) != 0,
            natoms=natoms,
            group=flat("group", np.arange(n)),
            origin=flat("origin", np.arange(n)),
            graph_attr=flat("graph_attr", np.full((n, 2), np.nan)),
            weights={name: read(weight_key(name)).rows() for name in file.weighted()},
            **by_level(file.targets(), lambda name: read(name).rows()),
        )
    except (ValueError, DataError) as error:
        raise IntegrityError(f"{file.path}: the keys of {label} do not fit together: {error}.") from error
