"""Launches that several tasks share: their tasks, ended tasks, free places, and launches that outlast their tasks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from gfm_pipeline.core.contracts.attempts.launch import GroupFile, GroupMember
from gfm_pipeline.core.contracts.attempts.records import ENDED_STEM
from gfm_pipeline.core.contracts.task import STOP_FILE
from gfm_pipeline.core.errors import StorageError
from gfm_pipeline.engine.resources.node_pool import Placement
from gfm_pipeline.engine.tasks.attempts import AttemptKey, Running
from gfm_pipeline.execution.size_class import SizeClass

POLL_SECONDS = 5.0  # pause between checks for tasks that ended before their launch
LINGER_SECONDS = 60.0  # allowed time between the end of the last task and the end of its launch


@dataclass(frozen=True)
class SharedTask:
    """A task in a place of a shared launch: its record for the ranks, and the attempt."""

    member: GroupMember
    running: Running


@dataclass(eq=False)
class SharedLaunch:
    """A launch with places for tasks of one size. A task that ends leaves its place to the next task.

    Parameters
    ----------
    folder
        Folder of the launch; also its name.
    size, placement
        Size of its tasks, and the nodes of all of them, which become free when the launch ends.
    places
        The latest task of each place.
    cancel
        Command that ends the launch.
    members
        Running tasks, by their numbers.
    open
        Whether places of ended tasks get further tasks; otherwise the launch ends with its last task.
    """

    folder: Path
    size: SizeClass
    placement: Placement
    places: dict[int, SharedTask]
    cancel: tuple[str, ...] = ()
    members: dict[int, Running] = field(default_factory=dict)
    open: bool = True
    started: int = 0  # tasks so far
    empty_since: float | None = field(default=None)  # monotonic

    def __post_init__(self) -> None:
        places, self.places = self.places, {}
        self._add(places)

    def _add(self, tasks: Mapping[int, SharedTask]) -> None:
        self.places |= tasks
        self.members |= {task.member.number: task.running for task in tasks.values()}
        self.started += len(tasks)
        self.empty_since = None

    def free(self) -> list[int]:
        """Return the places whose tasks have ended; none in a closed launch."""
        if not self.open or len(self.members) == len(self.places):
            return []
        return [place for place, task in self.places.items() if task.member.number not in self.members]

    def fill(self, tasks: Mapping[int, SharedTask]) -> None:
        """Give free places to tasks with recorded starts; raises `StorageError`."""
        self._add(tasks)
        self.write()

    def close(self) -> None:
        """Give places to no further tasks; raises `StorageError`."""
        self.open = False
        self.write()

    def write(self) -> None:
        """Tell the ranks: write the list of tasks."""
        latest = sorted((task.member for task in self.places.values()), key=lambda member: member.first_rank)
        GroupFile(tuple(latest), self.cancel, self.open).write(self.folder)


class SharedLaunches:
    """All running launches that several tasks share."""

    def __init__(self) -> None:
        self._launches: dict[Path, SharedLaunch] = {}
        self._next_poll = 0.0

    def __iter__(self) -> Iterator[SharedLaunch]:
        """Yield the launches."""
        return iter(list(self._launches.values()))

    def __bool__(self) -> bool:
        """Whether any launch runs."""
        return bool(self._launches)

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
        """Return the attempts that have ended since the last call; end launches that stay without tasks.

        One listing of a folder shows all ended tasks of a launch, since file systems of large machines serve all nodes.
        """
        if now < self._next_poll:
            return []
        self._next_poll = now + POLL_SECONDS
        found = []
        for launch in self._launches.values():
            with suppress(OSError):
                marks = [f for f in launch.folder.iterdir() if f.name.startswith(ENDED_STEM)]
                numbers = {int(mark.name.removeprefix(ENDED_STEM)): mark for mark in marks}
                found += [launch.members[number].key for number in numbers if number in launch.members]
                for number in numbers.keys() - launch.members.keys():
                    numbers[number].unlink()  # reported at an earlier check
            if launch.members:
                continue
            if launch.empty_since is None:
                launch.empty_since = now
            elif launch.open:
                _close(launch)
            elif now - launch.empty_since > LINGER_SECONDS:
                with suppress(OSError):
                    (launch.folder / STOP_FILE).touch()
        return found

    def close(self, blocks: Iterable[str] | None = None) -> None:
        """Let launches in ``blocks`` end with their tasks; None: all launches."""
        for launch in self:
            if launch.open and (blocks is None or launch.placement.block in blocks):
                _close(launch)

    def make_room(self, size: SizeClass, free: int) -> None:
        """Let as few launches end as a waiting task of another size needs, those with most free places first.

        Parameters
        ----------
        size
            Size of the task.
        free
            Number of nodes that are free already.
        """
        needed = size.nodes_of(1) if size.whole else float("inf")  # workers of small tasks need the whole block
        closed = [launch for launch in self if not launch.open]
        coming = free + sum(len(launch.placement.nodes) for launch in closed)
        others = [launch for launch in self if launch.size != size and launch.free()]
        for launch in sorted(others, key=lambda one: len(one.free()), reverse=True):
            if coming >= needed and closed:
                return
            _close(launch)
            closed.append(launch)
            coming += len(launch.placement.nodes)

    def stuck(self, now: float, seconds: float) -> bool:
        """Return whether a launch still runs ``seconds`` after the request to end."""
        since = [g.empty_since for g in self._launches.values() if g.empty_since is not None]
        return any(now - s > LINGER_SECONDS + seconds for s in since)


def _close(launch: SharedLaunch) -> None:
    with suppress(StorageError):  # the next task meets and reports the same error
        launch.close()
