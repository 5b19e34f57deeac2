"""Starts all ranks of a task on this node: ``python -m gfm_pipeline.apps.runtime.spawn MODULE SPEC``, in its folder.

Used for tasks that have one node or a part of one: no srun, so no load on the batch system and nothing to bind
around. The task wrapper starts this in place of the program; ``launch.json`` says how many ranks there are and what
each is given. When one rank fails the others are ended. The exit code is that of the rank that failed first.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from gfm_pipeline.apps.runtime.rank_assignment import (
    RankAssignment,
    bind_cores,
    rank_environment,
    refuse,
    start_program,
)
from gfm_pipeline.apps.runtime.supervise import POLL_SECONDS, Signals, exit_code_of, send
from gfm_pipeline.core.clock import LivedTime
from gfm_pipeline.core.contracts.attempts.launch import RankFile
from gfm_pipeline.core.contracts.attempts.records import TOGETHER, ExitCode
from gfm_pipeline.core.errors import ConfigError, GFMError

GRACE_SECONDS = 10.0  # from SIGTERM to SIGKILL of the others once a rank has failed
TOGETHER_SECONDS = 60.0  # for the others to leave by themselves after a rank left as all of them should

RankProcess = subprocess.Popen[bytes]


class Ending:
    """Says when ranks that are left must go: a pure matter of exit codes and times, apart from the processes."""

    def __init__(self) -> None:
        self.code = 0
        self._terminate_at = self._kill_at = float("inf")
        self._terminated = False

    def poll(self, codes: Sequence[int | None], now: float) -> signal.Signals | None:
        """Return the signal to send to those left, if any.

        Parameters
        ----------
        codes
            Exit codes of the ranks; None: still there.
        now
            Monotonic time, seconds.
        """
        failed = [code for code in codes if code]
        if failed and not self.code:
            # "Lost another rank" is the consequence: whatever else is found beside it is the cause.
            self.code = min(failed, key=lambda code: code == ExitCode.RETRYABLE)
            self._terminate_at = now + (TOGETHER_SECONDS if self.code in TOGETHER else 0.0)
            self._kill_at = self._terminate_at + GRACE_SECONDS
        if now >= self._kill_at:
            return signal.SIGKILL
        if now >= self._terminate_at and not self._terminated:
            self._terminated = True
            return signal.SIGTERM
        return None


def free_port() -> int:
    """Return a port of this machine that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_ranks(module: str, spec: str, file: RankFile, folder: Path, environ: Mapping[str, str]) -> list[RankProcess]:
    """Start every rank, each on its cores; none when one of them is refused.

    Raises
    ------
    ConfigError
        When a rank cannot have what the site gives it.
    """
    if file.ranks > file.ranks_per_node:
        raise ConfigError(f"The task has {file.ranks} ranks, and {file.ranks_per_node} fit on one node.")
    port = file.master_port or free_port()
    seats = [RankAssignment(k, k, socket.gethostname()) for k in range(file.ranks)]
    environments = [rank_environment(environ, file, seat, port) for seat in seats]
    before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    children: list[RankProcess] = []
    try:
        for seat, environment in zip(seats, environments, strict=True):
            bind_cores(file, seat)  # inherited by the child from its first moment, unlike a binding from outside
            children.append(start_program(module, [spec], environment, folder))
    except BaseException:  # whatever it is, Ctrl-C too: no rank may outlive this process; raised again
        _end(children)
        raise
    finally:
        if before is not None:
            os.sched_setaffinity(0, before)
    return children


def supervise_ranks(children: Sequence[RankProcess], signals: Signals) -> int:
    """Wait for all ranks, pass signals on, end the others after a failure; return the exit code of the task."""
    ending, clock = Ending(), LivedTime()
    try:
        while True:
            for number in signals.drain():
                for child in children:
                    send(child, number)
            codes = [exit_code_of(child) for child in children]
            number_now = ending.poll(codes, clock())
            if None not in codes:
                return ending.code
            if number_now is not None:
                for child in children:
                    send(child, number_now)
            time.sleep(POLL_SECONDS)
    finally:
        _end(children)


def _end(children: Sequence[RankProcess]) -> None:
    for child in children:
        send(child, signal.SIGKILL)
    for child in children:
        child.wait()


def main(arguments: Sequence[str], folder: Path, environ: Mapping[str, str]) -> int:
    """Run a task's ranks to their end and return its exit code."""
    signals = Signals()
    try:
        if len(arguments) != 2:
            raise ConfigError("The starter of ranks takes two arguments: a module and its JSON spec.")
        file = RankFile.read(folder)
        code = supervise_ranks(start_ranks(arguments[0], arguments[1], file, folder, environ), signals)
    except (GFMError, OSError) as error:
        code = refuse(folder, error)
    signals.ignore()
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], Path.cwd(), os.environ))
