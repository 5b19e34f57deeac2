"""Output whose loss does not end the driver: a pipe without a reader, a closed terminal, a full disk."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from typing import TextIO

from typing_extensions import Buffer

from gfm_pipeline.cli.support.terminal import Edge


class LastingFile(io.RawIOBase):
    """Writes to a file descriptor, and drops text that it does not accept; later text is tried again.

    Parameters
    ----------
    descriptor
        Stays open after the end of this object.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def writable(self) -> bool:
        """Return True."""
        return True

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._descriptor

    def isatty(self) -> bool:
        """Return whether it is a terminal."""
        return os.isatty(self._descriptor)

    def write(self, data: Buffer, /) -> int:
        """Write as much of ``data`` as the descriptor accepts, and return the number of written or dropped bytes."""
        try:
            return os.write(self._descriptor, data)
        except OSError:  # no reader, or no room: status and journal have the same facts
            return memoryview(data).nbytes


def outlast_output() -> None:
    """Let this process continue to its end without a reader of its output.

    For commands that drive a campaign: their work matters more than their output. Commands that only print keep the
    usual streams, so that ``| head`` ends them.
    """
    for name in ("stdout", "stderr"):
        edge = getattr(sys, name)
        stream: TextIO | None = edge.raw if isinstance(edge, Edge) else edge
        if stream is None or stream is not getattr(sys, f"__{name}__"):
            continue  # closed, or replaced (by a test): leave it
        with suppress(OSError):
            stream.flush()
        raw = io.BufferedWriter(LastingFile(stream.fileno()))
        lasting = io.TextIOWrapper(raw, encoding=stream.encoding, errors=stream.errors, line_buffering=True)
        if isinstance(edge, Edge):
            edge.raw = lasting
        else:
            setattr(sys, name, lasting)
