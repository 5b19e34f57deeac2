"""The driver's environment except launcher and nodes: time, running attempts, and slow queries.

The driver and its parts use only these interfaces, so that the same code drives a campaign on a
machine and in a simulation (`gfm_pipeline.simulate`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from gfm_pipeline.core.clock import MACHINE, Clock
from gfm_pipeline.core.contracts.task import STOP_FILE, WRAPPER_FILE
from gfm_pipeline.core.visibility import modified
from gfm_pipeline.engine.background import Background, QueryResult
from gfm_pipeline.engine.tasks.orphans import end_attempt

if TYPE_CHECKING:
    from gfm_pipeline.engine.wave_proposer import Answering


class Queries(Protocol):
    """Slow queries of a batch system, in the background of the driver's loop."""

    def submit(self, what: str, question: Callable[[], Any]) -> bool:
        """Start a query unless the same one is in progress; return whether it started."""

    def results(self) -> list[QueryResult]:
        """Return the answers since the last call, in the order of the queries."""

    def close(self) -> None:
        """Drop waiting queries, and wait for the one in progress."""


class Attempts(Protocol):
    """Running attempts and shared launches, identified by their folders."""

    def heartbeat(self, folder: Path) -> int | None:
        """Return a number that changes while the process of ``folder`` lives; None: no heartbeat (yet)."""

    def request_stop(self, folder: Path) -> None:
        """Ask the attempt to save and stop."""

    def end(self, folder: Path, *, wrapper: bool = True) -> bool:
        """Kill the attempt at once, with ``wrapper`` also its worker; return whether anything was running."""


class AttemptFiles:
    """Attempts as processes, controlled and observed by files in their folders."""

    def heartbeat(self, folder: Path) -> int | None:
        """Return the time of the wrapper's last heartbeat (ns, by the clock of its file server)."""
        return modified(folder / WRAPPER_FILE)

    def request_stop(self, folder: Path) -> None:
        """Write the file that asks programs and wrappers to stop."""
        (folder / STOP_FILE).touch()

    def end(self, folder: Path, *, wrapper: bool = True) -> bool:
        """Kill the processes on this machine, and the step on other nodes."""
        return end_attempt(folder, wrapper=wrapper)


ATTEMPT_FILES = AttemptFiles()


def _in_another_process() -> Answering:
    from gfm_pipeline.search.proposal_process import ProposalProcess  # here: viewing a campaign makes no proposals

    return ProposalProcess()


@dataclass(frozen=True)
class World:
    """The environment of the driver.

    Parameters
    ----------
    clock
        Time, and waiting.
    attempts
        Access to running attempts.
    questions
        Creates the object for slow queries.
    counters
        Whether this machine's energy counters belong to the campaign's nodes.
    proposals
        Creates the process of proposal methods.
    """

    clock: Clock = MACHINE
    attempts: Attempts = ATTEMPT_FILES
    queries: Callable[[], Queries] = Background
    counters: bool = True
    proposals: Callable[[], Answering] = _in_another_process


MACHINE_WORLD = World()
