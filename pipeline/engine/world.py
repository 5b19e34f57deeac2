"""The driver's surroundings besides launcher and nodes: time, running attempts, and slow queries.

The driver and what it is given ask for these here and nowhere else, so that the same code drives a campaign on a
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
        """Ask, unless the same is being asked already; return whether it was not."""

    def results(self) -> list[QueryResult]:
        """Return the answers that have come since the last call, in the order of the questions."""

    def close(self) -> None:
        """Drop what was not asked yet, and wait for what is being asked."""


class Attempts(Protocol):
    """Attempts, and launches that several share, while they run: each is known by its folder."""

    def heartbeat(self, folder: Path) -> int | None:
        """Return a number that changes while whatever runs in ``folder`` lives; None: it shows nothing (yet)."""

    def request_stop(self, folder: Path) -> None:
        """Ask it to save and leave."""

    def end(self, folder: Path, *, wrapper: bool = True) -> bool:
        """End it at once, with ``wrapper`` the worker that runs it too; return whether there was anything to end."""


class AttemptFiles:
    """Attempts that are processes: what they are asked, and how they are, is in files of their folders."""

    def heartbeat(self, folder: Path) -> int | None:
        """Return when the wrapper last touched its file (ns, of the clock of its file server)."""
        return modified(folder / WRAPPER_FILE)

    def request_stop(self, folder: Path) -> None:
        """Leave the file that programs and wrappers look for."""
        (folder / STOP_FILE).touch()

    def end(self, folder: Path, *, wrapper: bool = True) -> bool:
        """Kill the processes on this machine, and the step on others."""
        return end_attempt(folder, wrapper=wrapper)


ATTEMPT_FILES = AttemptFiles()


def _in_another_process() -> Answering:
    from gfm_pipeline.search.proposal_process import ProposalProcess  # here: looking at a campaign proposes nothing

    return ProposalProcess()


@dataclass(frozen=True)
class World:
    """What is outside of the driver.

    Parameters
    ----------
    clock
        Time, and waiting.
    attempts
        What runs.
    questions
        Makes what asks slow questions.
    counters
        Whether the counters of energy of this machine are those of the campaign's nodes.
    proposals
        Makes what answers questions to proposal methods.
    """

    clock: Clock = MACHINE
    attempts: Attempts = ATTEMPT_FILES
    queries: Callable[[], Queries] = Background
    counters: bool = True
    proposals: Callable[[], Answering] = _in_another_process


MACHINE_WORLD = World()
