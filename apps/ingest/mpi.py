"""Several processes of an MPI job at one program: what one of them decides, what each did, and how they fail together.

Nothing here imports mpi4py: who starts the program with it hands the communicator over.
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
_FAILED, _TOLD = 1, 2  # tags of messages
WAIT = 0.02  # seconds between two looks: MPI itself waits at the full load of a core


class OtherFailed(Exception):
    """Raised in a rank because another one failed; that one's own error is what all end with."""


@dataclass(frozen=True)
class _Outcome:
    value: Any = None
    error: Exception | None = None


@dataclass
class Ranks:
    """The processes that share a task; without a communicator there is one.

    Attributes
    ----------
    comm
        A communicator of mpi4py, or None.
    collective
        Whether ranks call a library together that waits for all of them. Then a rank that fails cannot tell the
        others, which may be inside it.
    agreed
        Whether an error was told to all ranks. A rank that ends with one that was not leaves others waiting: the job
        has to be aborted.
    """

    comm: Any = None
    collective: bool = False
    agreed: bool = field(default=False, init=False)
    _told: bool = field(default=False, init=False)

    @property
    def rank(self) -> int:
        """Number of this process, from 0."""
        return 0 if self.comm is None else int(self.comm.Get_rank())

    @property
    def size(self) -> int:
        """Number of processes."""
        return 1 if self.comm is None else int(self.comm.Get_size())

    def tell(self, value: Any) -> None:
        """Give the other ranks, which `hear`, a value; rank 0 calls this once."""
        self._told = True
        self._send(_Outcome(value))

    def _send(self, outcome: _Outcome) -> None:
        for other in range(1, self.size):
            self.comm.send(outcome, other, _TOLD)

    def hear(self) -> Any:
        """Return what rank 0 tells, or raise what it failed with."""
        while not self.comm.Iprobe(source=0, tag=_TOLD):
            time.sleep(WAIT)
        outcome: _Outcome = self.comm.recv(source=0, tag=_TOLD)
        if outcome.error is not None:
            self.agreed = True
            raise outcome.error
        return outcome.value

    @contextmanager
    def leading(self) -> Iterator[None]:
        """Let the others, which wait to be told something, have the error this rank fails with instead."""
        try:
            yield
        except Exception as error:  # whatever it is, others wait to be told; raised again
            if not self._told and self.size > 1:
                self._send(_Outcome(error=_sendable(error)))
                self.agreed = True
            raise

    def check(self) -> None:
        """Raise `OtherFailed` once another rank has failed; cheap enough for every step of a loop."""
        if self.size > 1 and not self.collective and self.comm.Iprobe(tag=_FAILED):
            raise OtherFailed

    def collect(self, make: Callable[[], T]) -> list[T]:
        """Do this rank's part, and return what all of them made, in their order.

        The first of the errors, by rank, is raised in every rank, so that all end alike. A rank that fails says so at
        once, and those that `check` stop.
        """
        if self.size == 1:
            return [make()]
        try:
            mine = _Outcome(make())
        except Exception as error:  # whatever it is, every rank must hear of it; raised again in all of them below
            if self.collective:
                raise
            mine = _Outcome(error=_sendable(error))
        sent = []
        if mine.error is not None and not isinstance(mine.error, OtherFailed):
            sent = [self.comm.isend(None, other, _FAILED) for other in range(self.size) if other != self.rank]
        arrived = self.comm.Ibarrier()
        while not arrived.Test():
            time.sleep(WAIT)
        outcomes: list[_Outcome] = self.comm.allgather(mine)
        errors = {k: o.error for k, o in enumerate(outcomes) if o.error and not isinstance(o.error, OtherFailed)}
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
    """Return the error, or one of its text where others could not unpickle it."""
    if isinstance(error, GFMError | OSError | MemoryError | StopRequested | OtherFailed):
        return error
    return RuntimeError(f"{type(error).__name__}: {error}")
