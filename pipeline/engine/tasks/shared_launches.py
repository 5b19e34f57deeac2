"""Launches that several tasks share: who is in which, who has left, and which of them linger."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from gfm_pipeline.core.contracts.attempts.records import ENDED_STEM
from gfm_pipeline.core.contracts.task import STOP_FILE
from gfm_pipeline.engine.resources.node_pool import Placement
from gfm_pipeline.engine.tasks.attempts import AttemptKey, Running
from gfm_pipeline.execution.size_class import SizeClass

POLL_SECONDS = 5.0  # between two looks for tasks that have ended while others of their launch go on
LINGER_SECONDS = 60.0  # for a launch to end after its last task


@dataclass
class SharedLaunch:
    """A launch of several tasks.

    Parameters
    ----------
    folder
        Its own; also its name.
    size, placement
        Of its tasks, and the nodes of them all: free when the launch is over.
    members
        Those that have not ended, by the first of their ranks.
    """

    folder: Path
    size: SizeClass
    placement: Placement
    members: dict[int, Running]
    empty_since: float | None = field(default=None)  # monotonic


class SharedLaunches:
    """All launches in flight that several tasks share."""

    def __init__(self) -> None:
        self._launches: dict[Path, SharedLaunch] = {}
        self._next_poll = 0.0

    def __iter__(self) -> Iterator[SharedLaunch]:
        """Yield them."""
        return iter(list(self._launches.values()))

    def add(self, launch: SharedLaunch) -> None:
        """Take in one that starts."""
        self._launches[launch.folder] = launch

    def over(self, folder: object) -> SharedLaunch | None:
        """Forget the launch of ``folder``, which is over, and return it; None: there is none."""
        return self._launches.pop(folder, None) if isinstance(folder, Path) else None

    def drop(self, block: str) -> None:
        """Forget those of a block that is gone."""
        self._launches = {f: g for f, g in self._launches.items() if g.placement.block != block}

    def clear(self) -> list[tuple[SizeClass, Placement]]:
        """Forget all, and return what they had taken."""
        placements = [(launch.size, launch.placement) for launch in self._launches.values()]
        self._launches.clear()
        return placements

    def left(self, running: Running) -> None:
        """Take in that an attempt has ended."""
        launch = self._launches.get(running.launch) if running.launch is not None else None
        if launch is not None:
            launch.members = {k: r for k, r in launch.members.items() if r.key != running.key}

    def ended(self, now: float) -> list[AttemptKey]:
        """Return the attempts that have ended since the last look; asks launches that linger to leave.

        One look at a folder tells of all tasks of a launch, since file systems of large machines serve all nodes.
        """
        if now < self._next_poll:
            return []
        self._next_poll = now + POLL_SECONDS
        found = []
        for launch in self._launches.values():
            with suppress(OSError):
                marks = [f.name for f in launch.folder.iterdir() if f.name.startswith(ENDED_STEM)]
                ranks = [int(name.removeprefix(ENDED_STEM)) for name in marks]
                found += [launch.members[rank].key for rank in ranks if rank in launch.members]
            if launch.members:
                continue
            if launch.empty_since is None:
                launch.empty_since = now
            elif now - launch.empty_since > LINGER_SECONDS:
                with suppress(OSError):
                    (launch.folder / STOP_FILE).touch()
        return found

    def stuck(self, now: float, seconds: float) -> bool:
        """Return whether a launch has not ended ``seconds`` after it was asked to leave."""
        since = [g.empty_since for g in self._launches.values() if g.empty_since is not None]
        return any(now - s > LINGER_SECONDS + seconds for s in since)
