"""Several MPI processes of one program: broadcasts, collected results, and common failure.

This module does not import mpi4py; the starter of the program passes the communicator.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from gfm_pipeline.apps.runtime.program import StopRequested
from gfm_pipeline.core.errors import GFMError

T = TypeVar("T")
_FAILED, _BROADCAST = 1, 2  # tags of messages
WAIT = 0.02  # seconds between two checks: MPI's own wait would use a full core


class PeerFailed(Exception):
    """Raised in a rank because another one failed; all ranks end with the error of the failed rank."""


@dataclass(frozen=True)
class _RankResult:
    value: Any = None
    error: Exception | None = None


@dataclass
class MpiCommunicator:
    """The processes that share a task; a single process without a communicator.

    Attributes
    ----------
    comm
        A communicator of mpi4py, or None.
    collective
        Whether all ranks are in a library call that waits for all of them. A failing rank then cannot notify the
        others, which may be inside the call.
    agreed
        Whether all ranks know of an error. If a rank ends with an error unknown to the others, they keep waiting, and
        the job must be aborted.
    """

    comm: Any = None
    collective: bool = False
    agreed: bool = field(default=False, init=False)
    _broadcast_done: bool = field(default=False, init=False)

    @property
    def rank(self) -> int:
        """Number of this process, from 0."""
        return 0 if self.comm is None else int(self.comm.Get_rank())

    @property
    def size(self) -> int:
        """Number of processes."""
        return 1 if self.comm is None else int(self.comm.Get_size())

    def broadcast(self, value: Any) -> None:
        """Send a value to the other ranks, which call `receive`; rank 0 calls this once."""
        self._broadcast_done = True
        self._send(_RankResult(value))

    def _send(self, outcome: _RankResult) -> None:
        for other in range(1, self.size):
            self.comm.send(outcome, other, _BROADCAST)

    def receive(self) -> Any:
        """Return the value from rank 0, or raise its error."""
        while not self.comm.Iprobe(source=0, tag=_BROADCAST):
            time.sleep(WAIT)
        outcome: _RankResult = self.comm.recv(source=0, tag=_BROADCAST)
        if outcome.error is not None:
            self.agreed = True
            raise outcome.error
        return outcome.value

    @contextmanager
    def broadcasting_errors(self) -> Iterator[None]:
        """On failure, send this rank's error to the others, which wait for a value."""
        try:
            yield
        except Exception as error:  # any exception: others wait for a message; raised again
            if not self._broadcast_done and self.size > 1:
                self._send(_RankResult(error=_sendable(error)))
                self.agreed = True
            raise

    def check_peers(self) -> None:
        """Raise `PeerFailed` once another rank has failed; cheap enough for every step of a loop."""
        if self.size > 1 and not self.collective and self.comm.Iprobe(tag=_FAILED):
            raise PeerFailed

    def allgather(self, make: Callable[[], T]) -> list[T]:
        """Run this rank's part, and return the results of all ranks, in their order.

        The first of the errors, by rank, is raised in every rank, so that all end alike. A failing rank reports at
        once, and ranks that call `check_peers` stop.
        """
        if self.size == 1:
            return [make()]
        try:
            mine = _RankResult(make())
        except Exception as error:  # any exception: every rank must learn of it; raised again in all of them below
            if self.collective:
                raise
            mine = _RankResult(error=_sendable(error))
        sent = []
        if mine.error is not None and not isinstance(mine.error, PeerFailed):
            sent = [self.comm.isend(None, other, _FAILED) for other in range(self.size) if other != self.rank]
        arrived = self.comm.Ibarrier()
        while not arrived.Test():
            time.sleep(WAIT)
        outcomes: list[_RankResult] = self.comm.allgather(mine)
        errors = {k: o.error for k, o in enumerate(outcomes) if o.error and not isinstance(o.error, PeerFailed)}
        for other in errors:
            if other != self.rank:
                self.comm.recv(source=other, tag=_FAILED)
        for request in sent:
            request.wait()
        for reason in errors.values():
            self.agreed = True
            raise reason
        return [outcome.value for outcome in outcomes]


def _sendable(error: Exception) -> Exception:
    """Return the error, or one with its text if others could not unpickle it."""
    if isinstance(error, GFMError | OSError | MemoryError | StopRequested | PeerFailed):
        return error
    return RuntimeError(f"{type(error).__name__}: {error}")
