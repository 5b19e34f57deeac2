"""A log that keeps its beginning and its end, and never grows beyond a bound."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from io import FileIO
from pathlib import Path


class BoundedLog:
    """Stores the output of a program; keeps the first and the last half of ``limit`` bytes.

    The head goes to ``path`` directly. Later output fills two files in turn, each at most a quarter of ``limit``, so
    that the newest lines are on disk when a process dies. `close` joins them to the head with a note on the omitted
    amount. If the disk refuses, log lines are lost, but the program continues and its output is still read.

    Parameters
    ----------
    path
        The log; its parts are ``<name>.0`` and ``<name>.1`` in the same folder until it is closed.
    limit
        Bytes kept.
    """

    def __init__(self, path: Path, limit: int) -> None:
        self.path = path
        self._quarter = max(1, limit // 4)
        self._parts = [path.with_name(f"{path.name}.{k}") for k in (0, 1)]
        self._stream: FileIO | None = FileIO(path, "ab")
        self._room = 2 * self._quarter
        self._turn = -1  # the current part; -1: the head
        self._received = 0
        self._closed = False
        self._lock = threading.Lock()

    def write(self, data: bytes) -> None:
        """Store ``data``; never raises because of the disk."""
        with self._lock:
            if self._closed:
                return
            self._received += len(data)
            while data:
                if not self._room:
                    self._next_part()
                piece, data = data[: self._room], data[self._room :]
                self._room -= len(piece)
                if self._stream is not None:
                    with suppress(OSError):
                        self._stream.write(piece)

    def _next_part(self) -> None:
        self._turn += 1
        self._room = self._quarter
        with suppress(OSError):
            if self._stream is not None:
                self._stream.close()
            self._stream = None
            self._stream = FileIO(self._parts[self._turn % 2], "wb")

    def close(self) -> None:
        """Join head and tail; further calls do nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            if self._stream is not None:
                self._stream.close()
            if self._turn < 0:
                return
            tail = b""
            for turn in (self._turn - 1, self._turn):
                with suppress(OSError):
                    tail += self._parts[turn % 2].read_bytes() if turn >= 0 else b""
            missing = self._received - 2 * self._quarter - len(tail)
            note = f"\n... {missing} bytes left out here ...\n".encode() if missing > 0 else b""
            with suppress(OSError):
                with open(self.path, "ab") as stream:
                    stream.write(note + tail)
                for part in self._parts:
                    part.unlink(missing_ok=True)


def pump(descriptor: int, log: BoundedLog) -> threading.Thread:
    """Start a thread that copies a pipe into ``log`` and closes the pipe at its end."""

    def move() -> None:
        with os.fdopen(descriptor, "rb", buffering=0) as pipe:
            while data := pipe.read(65536):
                log.write(data)

    thread = threading.Thread(target=move, name=f"log-{log.path.name}", daemon=True)
    thread.start()
    return thread
