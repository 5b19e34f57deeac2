"""Tests whether the disk is shared, and its speed: one rank writes a file with ADIOS2, another reads it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
from adios2 import bindings as adios
from numpy.typing import NDArray

from gfm_pipeline.core.publish import write_atomic

NAME = "preflight.bp"
READY = "preflight.ready"  # appears when the file is complete, and contains its size in bytes


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in (folder / NAME).iterdir())


def _whole(folder: Path) -> bool:
    """Return whether every byte is present, since ADIOS2 waits for ever on a truncated file."""
    try:
        return _size(folder) == int((folder / READY).read_text(encoding="ascii"))
    except FileNotFoundError:
        return False


def _values(megabytes: int) -> NDArray[np.float64]:
    return np.arange(megabytes * 1_000_000 // 8, dtype=np.float64)


def write(folder: Path, megabytes: int) -> None:
    """Write the file, with all its data on the disk."""
    values = _values(megabytes)
    context = adios.ADIOS()  # must live as long as its objects
    io = context.DeclareIO("preflight")
    engine = io.Open(str(folder / NAME), adios.Mode.Write)
    size = [len(values)]
    variable = io.DefineVariable("values", values, size, [0], size, True)
    engine.BeginStep()
    engine.Put(variable, values, adios.Mode.Sync)
    engine.EndStep()
    engine.Close()
    for path in (folder / NAME).iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    write_atomic(folder / READY, str(_size(folder)).encode())


def wait_for(folder: Path, seconds: float) -> None:
    """Wait until the file is complete.

    Raises
    ------
    OSError
        When it does not appear.
    """
    began = time.monotonic()
    while not _whole(folder):
        if time.monotonic() - began > seconds:
            raise OSError(f"{folder / NAME} did not appear within {seconds:.0f} s on another node")
        time.sleep(0.05)


def read(folder: Path, megabytes: int) -> None:
    """Read the whole file and compare its content.

    Raises
    ------
    OSError
        When its content differs from the written data.
    """
    context = adios.ADIOS()
    io = context.DeclareIO("preflight")
    engine = io.Open(str(folder / NAME), adios.Mode.ReadRandomAccess)
    variable = io.InquireVariable("values")
    values = np.zeros(variable.Shape()[0], dtype=np.float64)
    engine.Get(variable, values, adios.Mode.Sync)
    engine.Close()
    if not np.array_equal(values, _values(megabytes)):
        raise OSError(f"{folder / NAME} was read with other values than were written")
