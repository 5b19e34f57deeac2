"""Launches that several tasks share: their tasks, ended tasks, and launches that outlast their tasks."""

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

POLL_SECONDS = 5.0  # pause between checks for tasks that ended before their launch
LINGER_SECONDS = 60.0  # allowed time between the end of the last task and the end of its launch


@dataclass
class SharedLaunch:
    """A launch of several tasks.

    Parameters
    ----------
    folder
        Folder of the launch; also its name.
    size, placement
        Size of its tasks, and the nodes of all of them, which become free when the launch ends.
    members
        Running tasks, by the first of their ranks.
    """

    folder: Path
    size: SizeClass
    placement: Placement
    members: dict[int, Running]
    empty_since: float | None = field(default=None)  # monotonic


class SharedLaunches:
    """All running launches that several tasks share."""

    def __init__(self) -> None:
        self._launches: dict[Path, SharedLaunch] = {}
        self._next_poll = 0.0

    def __iter__(self) -> Iterator[SharedLaunch]:
        """Yield the launches."""
        return iter(list(self._launches.values()))

    def add(self, launch: SharedLaunch) -> None:
        """Add a starting launch."""
        self._launches[launch.folder] = launch

    def over(self, folder: object) -> SharedLaunch | None:
        """Remove the ended launch of ``folder``, and return it; None: there is none."""
        return self._launches.pop(folder, None) if isinstance(folder, Path) else None

    def drop(self, block: str) -> None:
        """Remove the launches of a lost block."""
        self._launches = {f: g for f, g in self._launches.items() if g.placement.block != block}

    def clear(self) -> list[tuple[SizeClass, Placement]]:
        """Remove all launches, and return their places."""
        placements = [(launch.size, launch.placement) for launch in self._launches.values()]
        self._launches.clear()
        return placements

    def left(self, running: Running) -> None:
        """Record that an attempt has ended."""
        launch = self._launches.get(running.launch) if running.launch is not None else None
        if launch is not None:
            launch.members = {k: r for k, r in launch.members.items() if r.key != running.key}

    def ended(self, now: float) -> list[AttemptKey]:
        """Return the attempts that have ended since the last call; ask launches without tasks to end.

        One listing of a folder shows all ended tasks of a launch, since file systems of large machines serve all nodes.
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
        """Return whether a launch still runs ``seconds`` after the request to end."""
        since = [g.empty_since for g in self._launches.values() if g.empty_since is not None]
        return any(now - s > LINGER_SECONDS + seconds for s in since)
