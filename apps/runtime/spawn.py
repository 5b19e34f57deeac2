"""Starts all ranks of a task on this node: ``python -m gfm_pipeline.apps.runtime.spawn MODULE SPEC``, in its folder.

This serves tasks on one node or a part of one. It needs no srun, so there is no load on the batch system and no binding
to work around. The task wrapper starts this in place of the program; ``launch.json`` describes the ranks and their
resources. When one rank fails, this ends the others. The exit code is that of the first failed rank.
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

GRACE_SECONDS = 10.0  # from SIGTERM to SIGKILL of the others after a rank has failed
TOGETHER_SECONDS = 60.0  # for the others to exit by themselves after a rank exited with a code that all should have

RankProcess = subprocess.Popen[bytes]


class Ending:
    """Decides when the remaining ranks must end, from exit codes and times only."""

    def __init__(self) -> None:
        self.code = 0
        self._terminate_at = self._kill_at = float("inf")
        self._terminated = False

    def poll(self, codes: Sequence[int | None], now: float) -> signal.Signals | None:
        """Return the signal to send to the remaining ranks, if any.

        Parameters
        ----------
        codes
            Exit codes of the ranks; None: still running.
        now
            Monotonic time, seconds.
        """
        failed = [code for code in codes if code]
        if failed and not self.code:
            # "Lost another rank" is a consequence: any other error is the cause.
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
    """Return an unused port of this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_ranks(module: str, spec: str, file: RankFile, folder: Path, environ: Mapping[str, str]) -> list[RankProcess]:
    """Start every rank on its cores; start none when one of them is refused.

    Raises
    ------
    ConfigError
        When a rank cannot get the site's resources.
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
            bind_cores(file, seat)  # the child inherits the binding from its start, unlike a later binding from outside
            children.append(start_program(module, [spec], environment, folder))
    except BaseException:  # any exception, including Ctrl-C: no rank may outlive this process; raised again
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
    # the launcher tells a rank its number in the environment only
    sys.exit(main(sys.argv[1:], Path.cwd(), os.environ))
