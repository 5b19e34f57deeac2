"""Many small tasks in one launch: each rank finds its task by its number.

The first rank of a task runs it under the task wrapper, as a Parsl worker would, so its folder has the usual files of
an attempt. The rank also marks the end of the task in the launch's folder, where the driver checks all tasks at once.
The task's other ranks start their programs, and end them after the wrapper has written ``exit.json``. They check for
this file every five seconds, or less often so that a whole launch makes a hundred checks per second, because file
systems of large machines serve all nodes. Usually a program that has lost rank 0 ends by itself before.

Ranks whose task has ended wait for the next one: the driver replaces the task in ``group.json``, which they check as
often. So the nodes of a short task need not wait for the longest task of the launch.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from gfm_pipeline.apps.energy.attempt_meter import AttemptMeter
from gfm_pipeline.apps.runtime.rank_assignment import (
    RankAssignment,
    assignment_of,
    bind_cores,
    rank_environment,
    refuse,
    start_program,
    step_of,
)
from gfm_pipeline.apps.runtime.supervise import Signals, WrapperHeartbeat, end_program, supervise
from gfm_pipeline.core.clock import LivedTime
from gfm_pipeline.core.contracts.attempts.launch import GROUP_FILE, LAUNCH_FILE, GroupFile, GroupMember, RankFile
from gfm_pipeline.core.contracts.attempts.records import (
    ENDED_STEM,
    EXIT_FILE,
    SPEC_FILE,
    STEP_FILE,
    TOGETHER,
    WRAP_FILE,
    WRAPPER_FILE,
    ExitRecord,
    write_first_failure,
)
from gfm_pipeline.core.errors import GFMError
from gfm_pipeline.core.publish import write_atomic, write_record
from gfm_pipeline.core.visibility import START_SECONDS, wait_for

WRAPPER = "gfm_pipeline.apps.runtime.wrapper"
POLL_SECONDS = 5.0
POLLS_PER_SECOND = 100  # for all ranks of a launch together
WAIT_SECONDS = 0.5  # between two checks for signals, without a task
WRAPPER_SECONDS = 120.0  # without a sign of the launch's wrapper, until ranks without a task end


def run_member(folder: Path, environ: Mapping[str, str], signals: Signals) -> None:
    """Run this rank of its tasks, one after another, in the group in ``folder``; their folders record the ends.

    Raises
    ------
    GFMError
        When the group's own files are damaged.
    """
    group = GroupFile.read(folder)
    if not group.members:
        return
    # The launcher numbers ranks, so the numbering is the same for all tasks of a launch.
    wait_for([Path(group.members[0].folder) / LAUNCH_FILE], START_SECONDS)
    place = assignment_of(RankFile.read(Path(group.members[0].folder)), environ)
    if place.rank == 0 and (step := step_of(environ)) is not None:
        write_atomic(folder / STEP_FILE, f"{step}\n".encode())
    ranks = group.members[-1].first_rank + group.members[-1].ranks
    waiting = TaskTable(folder, max(POLL_SECONDS, ranks / POLLS_PER_SECOND))
    member = group.member_of(place.rank)
    while member is not None:
        _run_task(folder, member, place, ranks, environ, signals)
        member = waiting.next_task(place.rank, member.number, signals)


def _run_task(
    folder: Path, member: GroupMember, place: RankAssignment, ranks: int, environ: Mapping[str, str], signals: Signals
) -> None:
    rank, own = place.rank - member.first_rank, Path(member.folder)
    try:
        _run(folder, member, rank, ranks, environ, signals)
    except (GFMError, OSError) as error:
        code = refuse(own, error)
        write_first_failure(own, code, rank, place.host)
        if rank == 0:
            with suppress(GFMError, OSError):  # a full disk: the driver finds an attempt without files
                write_record(own / EXIT_FILE, ExitRecord(code, False, 0.0, host=place.host))
    if rank == 0:
        with suppress(OSError):  # the driver notices when the whole launch ends
            (folder / f"{ENDED_STEM}{member.number}").touch()


def _run(
    folder: Path, member: GroupMember, rank: int, ranks: int, environ: Mapping[str, str], signals: Signals
) -> None:
    own = Path(member.folder)
    wait_for([own / LAUNCH_FILE], START_SECONDS)
    file = RankFile.read(own)
    if rank > 0:  # the first rank has the wrapper, which itself waits
        wait_for(map(Path, file.expects), file.visible_seconds)
    seat = RankAssignment(rank, rank % file.ranks_per_node, socket.gethostname())
    environment = rank_environment(environ, file, seat)
    bind_cores(file, seat)
    over: Callable[[float], bool]
    if rank == 0:
        child = start_program(WRAPPER, [WRAP_FILE], environment, own)
        over = WrapperHeartbeat(
            folder / WRAPPER_FILE, file.wrapper_timeout_seconds, time.monotonic(), must_appear=False
        ).lost
    else:
        child = start_program(member.module, [SPEC_FILE], environment, own)
        over = FileAppeared(own / EXIT_FILE, max(POLL_SECONDS, ranks / POLLS_PER_SECOND))
    meter = AttemptMeter(file.energy if rank > 0 and seat.local_rank == 0 else None, own)  # the wrapper has the first
    code = supervise(child, signals, over, meter.poll)
    meter.close()
    if code is None:
        end_program(child)
    elif rank > 0 and code and code not in TOGETHER:
        write_first_failure(own, code, rank, seat.host)


class TaskTable:
    """The launch's list of tasks, in which a rank finds the next one.

    Parameters
    ----------
    folder
        Of the launch.
    interval
        Seconds between two checks of the list.
    """

    def __init__(self, folder: Path, interval: float) -> None:
        self._folder, self._interval = folder, interval

    def next_task(self, rank: int, after: int, signals: Signals) -> GroupMember | None:
        """Wait for a task of ``rank`` with a number above ``after``; None: there will be none.

        There will be none when the list is closed, a signal has asked the launch to end, or the launch's wrapper is
        gone.
        """
        clock = LivedTime()
        known: object = None
        polled_at = float("-inf")
        wrapper = WrapperHeartbeat(self._folder / WRAPPER_FILE, WRAPPER_SECONDS, clock(), must_appear=False)
        while not signals.received_any and not wrapper.lost(clock()):
            if clock() - polled_at >= self._interval:
                polled_at, version = clock(), _version(self._folder / GROUP_FILE)
                if version != known:
                    known, group = version, GroupFile.read(self._folder)
                    found = group.member_of(rank, after)
                    if found is not None or not group.open:
                        return found
            time.sleep(WAIT_SECONDS)
        return None


def _version(path: Path) -> tuple[int, int]:
    """Return what differs between two versions of a file; opening it makes a network file system ask its server."""
    with path.open("rb") as file:
        found = os.fstat(file.fileno())
    return found.st_ino, found.st_mtime_ns  # some file systems count times in seconds


class FileAppeared:
    """Checks for a file every ``interval`` seconds of the monotonic time of its calls."""

    def __init__(self, path: Path, interval: float) -> None:
        self._path, self._interval = path, interval
        self._polled_at = float("-inf")

    def __call__(self, now: float) -> bool:
        """Return whether the file exists at this check; False between checks."""
        if now - self._polled_at < self._interval:
            return False
        self._polled_at = now
        return self._path.exists()
