"""Output that may go away without the driver: a pipe nobody reads any more, a closed terminal, a full disk."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from typing import TextIO

from typing_extensions import Buffer

from gfm_pipeline.cli.support.terminal import Edge


class LastingFile(io.RawIOBase):
    """Writes to a file descriptor, and passes over what it does not take; the next words are tried again.

    Parameters
    ----------
    descriptor
        Stays open when this object goes.
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
        """Write as much of ``data`` as is taken, and return how many bytes are done with."""
        try:
            return os.write(self._descriptor, data)
        except OSError:  # nobody reads it, or there is no room: status and journal say the same
            return memoryview(data).nbytes


def outlast_output() -> None:
    """Let this process go on, to the end of it, when nobody takes what it prints.

    For commands that drive a campaign: their work is worth more than their words. Commands that only print keep the
    usual streams, so that ``| head`` ends them.
    """
    for name in ("stdout", "stderr"):
        edge = getattr(sys, name)
        stream: TextIO | None = edge.raw if isinstance(edge, Edge) else edge
        if stream is None or stream is not getattr(sys, f"__{name}__"):
            continue  # closed, or taken over by somebody (a test): not ours to replace
        with suppress(OSError):
            stream.flush()
        raw = io.BufferedWriter(LastingFile(stream.fileno()))
        lasting = io.TextIOWrapper(raw, encoding=stream.encoding, errors=stream.errors, line_buffering=True)
        if isinstance(edge, Edge):
            edge.raw = lasting
        else:
            setattr(sys, name, lasting)
