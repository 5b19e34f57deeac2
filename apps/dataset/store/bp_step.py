"""A BP5 file with one step, open for writing: attributes, and global arrays written block by block."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from adios2 import bindings as adios
from numpy.typing import NDArray

from gfm_pipeline.core.errors import DataError
from gfm_pipeline.core.publish import storage_errors

FLUSH = 64 << 20  # bytes buffered before they are written to disk


def together() -> bool:
    """Return whether several ranks can write one file: ADIOS2 needs MPI, which its wheels lack."""
    return bool(adios.is_built_with_mpi)


class BpStep(AbstractContextManager["BpStep"]):
    """Writes one file in bounded memory; after an exception the incomplete file is never published.

    Parameters
    ----------
    path
        Folder to create; its parent must exist.
    comm
        Communicator of mpi4py whose ranks write the file together; `together` returns whether ADIOS2 supports this.
        Opening and closing wait for all ranks, and a rank holds its blocks until then.

    Raises
    ------
    StorageError
        When the disk refuses.
    DataError
        When ADIOS2 refuses the data.
    """

    def __init__(self, path: Path, comm: Any = None) -> None:
        self.path, self._comm = path, comm
        self._variables: dict[str, Any] = {}
        self._pending = 0

    def __enter__(self) -> BpStep:
        with storage_errors(self.path), _Explained(self.path):
            self._context = adios.ADIOS() if self._comm is None else adios.ADIOS(self._comm)
            self._io = self._context.DeclareIO("write")
            self._io.SetEngine("BP5")
            # Statistics stay on: HydraGNN's reader distinguishes cached counts by their Min and Max.
            self._io.SetParameter("Threads", "1")
            self._engine = self._io.Open(str(self.path), adios.Mode.Write)
            self._engine.BeginStep()
        return self

    def attribute(self, name: str, value: NDArray[Any] | str | Sequence[str]) -> None:
        """Define an attribute."""
        with storage_errors(self.path), _Explained(self.path):
            self._io.DefineAttribute(name, value)

    def put(self, name: str, array: NDArray[Any], shape: Sequence[int], start: Sequence[int]) -> None:
        """Put a block of the global array ``name`` of ``shape`` at ``start``. It is copied, so the buffer may go.

        Raises
        ------
        DataError
            When the block does not fit into the array.
        """
        if any(first + n > whole for first, n, whole in zip(start, array.shape, shape, strict=True)):
            raise DataError(f"{name} of {self.path} is longer than the {list(shape)} that was announced.")
        with storage_errors(self.path), _Explained(self.path):
            if name not in self._variables:
                self._variables[name] = self._io.DefineVariable(
                    name, np.zeros(1, array.dtype), list(shape), [0] * len(shape), list(shape)
                )
            variable = self._variables[name]
            block = np.array(array, order="C")  # a copy: read-only arrays are refused with a wrong message
            variable.SetSelection([list(start), list(array.shape)])
            self._engine.Put(variable, block, adios.Mode.Sync)
            self._pending += block.nbytes
            if self._pending >= FLUSH and self._comm is None:  # several ranks would have to do it together
                self._engine.PerformDataWrite()
                self._pending = 0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._comm is not None and kind is not None:
            return  # closing the file waits for all ranks, which a failed rank cannot do
        with storage_errors(self.path), _Explained(self.path):
            self._engine.EndStep()
            self._engine.Close()
        # Timings inside would change the digest of equal data.
        (self.path / "profiling.json").unlink(missing_ok=True)


@dataclass
class _Explained(AbstractContextManager[None]):
    """Converts errors of ADIOS2 to one sentence."""

    path: Path

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, RuntimeError):
            message = (str(error).splitlines() or [""])[0]
            raise DataError(f"ADIOS2 could not write {self.path}: {message}.") from error
