"""A forked process with limits of memory and time, which sends its results through a pipe."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import pickle
import resource
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from gfm_pipeline.apps.ingest.files.cursor import Cursor, RecordPlace
from gfm_pipeline.core.contracts.ingest.reading import ReadLimits
from gfm_pipeline.core.errors import GFMError

GB = 10**9
POLL_SECONDS = 0.5  # seconds between checks of a silent child
BUSY = 10  # times the limit, for a child that keeps reading its file (to skip members of an archive)
PIPE_BYTES = 1 << 20
SIZE_PIPE, DEATH_SIGNAL = 1031, 1  # fcntl F_SETPIPE_SZ (named from Python 3.10 on Linux), prctl PR_SET_PDEATHSIG


class ChildDiedError(Exception):
    """A child ended early: its text continues a sentence after "it"; ``in_time``: by the limit of time."""

    def __init__(self, message: str, in_time: bool = False) -> None:
        super().__init__(message)
        self.in_time = in_time


@dataclass
class Child:
    """A forked process that calls ``work`` with its end of a pipe; it ends with its ``with`` block."""

    work: Callable[[Connection], None]
    limits: ReadLimits
    memory: Any
    _pid: int = field(default=0, init=False)
    _ended: bool = field(default=False, init=False)

    def __enter__(self) -> Child:
        self._receive, send = Pipe(duplex=False)
        with suppress(OSError, ImportError):
            import fcntl

            fcntl.fcntl(send.fileno(), SIZE_PIPE, PIPE_BYTES)
        sys.stderr.flush()
        parent = os.getpid()
        with warnings.catch_warnings():
            # Newer Pythons warn of forks with threads: those of NumPy's libraries, which stop for a fork.
            warnings.simplefilter("ignore", DeprecationWarning)
            self._pid = os.fork()
        if not self._pid:
            self._receive.close()
            _be_child(self.work, send, self.limits, parent)
        send.close()
        return self

    def __exit__(self, *error: object) -> None:
        self._receive.close()
        self._end(kill=True)

    def _end(self, kill: bool = False) -> int:
        """Wait for the process, and return its end as `os.waitstatus_to_exitcode` does."""
        if self._ended:
            return 0
        if kill:
            with suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
        self._ended = True
        return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])

    def receive(self, alive: Callable[[], None]) -> Any:
        """Return the next object from the child.

        Raises
        ------
        ChildDiedError
            When it died, or was ended because nothing arrived in time.
        Exception
            Any error of ``work`` or ``alive``.
        """
        patience = ChildTimeouts(self.limits.seconds)
        while not self._receive.poll(POLL_SECONDS):
            alive()
            if patience.ends(_progress_of(self.memory), _bytes_read(self._pid)):
                self._end(kill=True)
                raise ChildDiedError(f"takes too long: no record came of it within {self.limits.seconds:g} s", True)
        try:
            found = self._receive.recv()
        except (EOFError, OSError):
            raise ChildDiedError(_describe(self._end())) from None
        if isinstance(found, Exception):
            raise found
        return found


@dataclass
class ChildTimeouts:
    """Decides when to give up a silent child; counts checks, so that a sleep of the machine does not matter."""

    seconds: float
    _waited: float = 0.0
    _busy: float = 0.0
    _place: Any = None
    _read: int | None = None

    def ends(self, place: Any, read: int | None) -> bool:
        """Check the child's position, and the bytes it has read from files so far."""
        self._waited, self._busy = self._waited + POLL_SECONDS, self._busy + POLL_SECONDS
        if place != self._place:
            self._waited = self._busy = 0.0
        elif read != self._read:
            self._waited = 0.0
        self._place, self._read = place, read
        return self._waited > self.seconds or self._busy > BUSY * self.seconds


def _progress_of(memory: Any) -> tuple[RecordPlace, bool]:
    cursor = Cursor(memory=memory)
    return cursor.place, cursor.parsing


def _bytes_read(pid: int) -> int | None:
    """Return how many bytes a process has read from files, if the system reports it."""
    try:
        return int(Path(f"/proc/{pid}/io").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return None


def _describe(code: int) -> str:
    """Return how a process ended, as words that follow the name of its file."""
    if code >= 0:
        return f"ended its reader: exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"ended its reader by {name}: it is damaged, or no file for this reader"


def _be_child(work: Callable[[Connection], None], connection: Connection, limits: ReadLimits, parent: int) -> None:
    """Run the work of a forked process; never returns."""
    code = 1
    try:
        _bound(limits, parent)
        work(connection)
        code = 0
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent raises it
        if not isinstance(error, GFMError | OSError):
            traceback.print_exc()
        with suppress(OSError, ValueError):
            connection.send(_plain(error))
            code = 0
    finally:
        with suppress(OSError, ValueError):
            sys.stderr.flush()
        os._exit(code)


def _plain(error: Exception) -> Exception:
    """Return an error that can be sent to another process."""
    try:
        pickle.dumps(error)
    except Exception:  # noqa: BLE001 - an error of any library, with whatever it holds
        return RuntimeError(str(error))
    return error


def _bound(limits: ReadLimits, parent: int) -> None:
    """Make this forked process end with its parent, and apply its limits."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(DEATH_SIGNAL, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
    faulthandler.disable()  # its report of a crash would look like a bug of this program
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        held = int(next(line for line in lines if line.startswith("VmData")).split()[1]) * 1024
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        limit = held + int(limits.memory_gb * GB)
        resource.setrlimit(resource.RLIMIT_DATA, (limit if hard == -1 else min(limit, hard), hard))
