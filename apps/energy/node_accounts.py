"""The energy of one node, divided among its tasks: each joule counts once, for a task or as idle.

All tasks of one driver on a node share a file on the node's own disk. A task that starts, reads or ends first
distributes the energy counted since the last distribution. The energy of a GPU goes to the task with that GPU, other
energy to the running tasks by their shares of the node. So tasks and idle time together equal the counted energy.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from gfm_pipeline.apps.energy.counter_mark import LAST_SECONDS, STILL_SECONDS, Mark, advance
from gfm_pipeline.apps.energy.node_meter import NodeMeter
from gfm_pipeline.core.contracts.energy import CounterReading, EnergyLabel, EnergyUse, NodeEnergy
from gfm_pipeline.core.errors import IntegrityError
from gfm_pipeline.core.processes import ProcessId, identify, is_alive
from gfm_pipeline.core.publish import write_atomic
from gfm_pipeline.core.records import canonical_json, read_record, to_plain

FOLDER = "gfm-energy"
OLD_SECONDS = 7 * 86_400.0  # for files of drivers that ended long ago


@dataclass(frozen=True)
class Account:
    """Joules and node-seconds of a task, of idle time, or of the node; ``guess``: the estimated part of the joules."""

    joules: float = 0.0
    seconds: float = 0.0
    guess: float = 0.0

    def with_more(self, joules: float, seconds: float, guess: float) -> Account:
        """Return the account with additions to each field."""
        return Account(self.joules + joules, self.seconds + seconds, max(0.0, self.guess + guess))


@dataclass(frozen=True)
class TaskAccount:
    """A task on the node: its process, share of the node, GPUs, used energy, and idle energy before it."""

    process: ProcessId
    share: float
    devices: tuple[int, ...] | None
    used: Account = Account()
    idle: Account = Account()


@dataclass(frozen=True)
class Book:
    """All accounts of a node, as in its file.

    ``looked`` is the time of the last distribution; ``source`` and ``period`` are the source and its update period (s).
    """

    looked: float
    marks: dict[str, Mark]
    tasks: dict[str, TaskAccount] = field(default_factory=dict)
    idle: Account = Account()
    all: Account = Account()
    source: str = ""
    period: float = 0.0


def settled(book: Book, readings: dict[str, CounterReading], now: float, patience: float = STILL_SECONDS) -> Book:
    """Return the book after distributing the energy counted since the last time; a pure function."""
    passed = max(0.0, now - book.looked)
    marks = {name: Mark(now, reading.joules) for name, reading in readings.items()} | book.marks
    shares = sum(task.share for task in book.tasks.values())
    tasks = {
        name: replace(task, used=task.used.with_more(0.0, passed * task.share / shares, 0.0))
        for name, task in book.tasks.items()
    }
    nobody = book.idle if tasks else book.idle.with_more(0.0, passed, 0.0)
    whole = book.all.with_more(0.0, passed, 0.0)
    for name, mark in book.marks.items():
        reading = readings.get(name)
        counted = advance(mark, reading, now, patience)
        marks[name] = counted.mark
        whole = whole.with_more(counted.joules, 0.0, counted.guess)
        device = reading.device if reading is not None else None
        sharing = _sharing(tasks, device)
        if not sharing:
            nobody = nobody.with_more(counted.joules, 0.0, counted.guess)
            continue
        moving = sum(tasks[task].share for task in sharing)
        for task in sharing:
            part = tasks[task].share / moving
            used = tasks[task].used.with_more(counted.joules * part, 0.0, counted.guess * part)
            tasks[task] = replace(tasks[task], used=used)
    return replace(book, looked=now, marks=marks, tasks=tasks, idle=nobody, all=whole)


def _sharing(tasks: dict[str, TaskAccount], device: int | None) -> list[str]:
    """Return the tasks that advance a counter: the owner of the GPU, or all tasks."""
    if device is None:
        return list(tasks)
    owners = [name for name, task in tasks.items() if task.devices is not None and device in task.devices]
    return owners or [name for name, task in tasks.items() if task.devices is None]


class NodeAccounts:
    """The accounts of this process's node.

    Parameters
    ----------
    meter
        Reads its counters.
    node, account
        Names of the node and of the accounts; tasks with equal names share the accounts.
    folder
        Folder of all accounts; None: below the node's folder for temporary files.
    clock
        Clock in seconds, the same for all processes of the node.
    """

    def __init__(
        self,
        meter: NodeMeter,
        node: str,
        account: str,
        folder: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._meter, self._node, self._clock = meter, node, clock
        self._folder = folder or Path(tempfile.gettempdir()) / f"{FOLDER}-{os.getuid()}"
        self._path = self._folder / f"{account}-{node}.json"

    def open(self) -> None:
        """Start counting, unless another process has: all later energy belongs to a task or to idle time."""
        remove_old(self._folder, time.time())
        with self._book() as book:
            self._write(book)

    def enter(self, task: str, share: float, devices: Collection[int] | None) -> None:
        """Open the account of a new task; idle energy since the last task becomes its idle energy."""
        with self._book() as book:
            mine = None if devices is None else tuple(sorted(devices))
            found = TaskAccount(identify(os.getpid()), share, mine, Account(), book.idle)
            self._write(replace(book, tasks={**book.tasks, task: found}, idle=Account()))

    def read(self, task: str, *, leave: bool = False) -> NodeEnergy | None:
        """Return the energy of a task so far, and with ``leave`` close its account; None: it has no account."""
        with self._book(LAST_SECONDS if leave else STILL_SECONDS) as book:
            mine = book.tasks.get(task)
            rest = {name: t for name, t in book.tasks.items() if name != task} if leave else book.tasks
            self._write(replace(book, tasks=rest))
        return None if mine is None else self._energy(book, mine.used, mine.idle, mine.share)

    def close(self) -> NodeEnergy:
        """Return the idle energy not yet assigned to a task, and remove the accounts."""
        with self._book(LAST_SECONDS) as book:
            self._path.unlink(missing_ok=True)
        return self._energy(book, Account(), book.idle, 1.0)

    def _energy(self, book: Book, used: Account, idle: Account, share: float) -> NodeEnergy:
        return NodeEnergy(self._node, _use(book, used, share), _use(book, idle), _use(book, book.all))

    @contextmanager
    def _book(self, patience: float = STILL_SECONDS) -> Iterator[Book]:
        """Lock the accounts, distribute the counted energy, and yield them."""
        self._own_folder()
        with open(self._path.with_suffix(".lock"), "w", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            readings, now = self._meter.read(), self._clock()
            yield settled(self._read(readings, now), readings, now, patience)

    def _read(self, readings: dict[str, CounterReading], now: float) -> Book:
        try:
            book = read_record(Book, self._path)
        except (FileNotFoundError, IntegrityError):
            book = Book(now, {name: Mark(now, reading.joules) for name, reading in readings.items()})
        living = {name: task for name, task in book.tasks.items() if is_alive(task.process)}
        if not readings:  # unchanged
            return replace(book, tasks=living)
        period = max(reading.period_seconds for reading in readings.values())
        return replace(book, tasks=living, source=self._meter.source, period=period)

    def _write(self, book: Book) -> None:
        write_atomic(self._path, canonical_json(to_plain(book)).encode(), durable=False)

    def _own_folder(self) -> None:
        """Create the folder, or check that this user owns it, since any user may write to the temporary folder."""
        with suppress(FileExistsError):
            self._folder.mkdir(mode=0o700, parents=True)
        if self._folder.is_symlink() or self._folder.stat().st_uid != os.getuid():
            raise OSError(f"{self._folder} is not ours")


def _use(book: Book, account: Account, share: float = 1.0) -> EnergyUse:
    """Return an account with its error bar: one counter update at the mean power, plus the estimated part."""
    update = account.joules / account.seconds * book.period if account.seconds > 0 else 0.0
    sure = share >= 1.0 and account.guess <= update
    label = EnergyLabel.MEASURED if sure else EnergyLabel.ATTRIBUTED
    return EnergyUse(account.joules, update + account.guess, label, book.source, account.seconds)


def remove_old(folder: Path, now: float) -> None:
    """Remove accounts unused for a week (``now`` in seconds since 1970)."""
    for path in folder.glob("*.*"):
        with suppress(OSError):
            if now - path.stat().st_mtime > OLD_SECONDS:
                path.unlink()
