"""Waits for programs: passes signals on, watches heartbeats, and returns exit codes as in shells."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import FrameType

from gfm_pipeline.core.clock import LivedTime
from gfm_pipeline.core.contracts.attempts.records import shell_code
from gfm_pipeline.core.visibility import modified

POLL_SECONDS = 0.1
GRACE_SECONDS = 30.0  # for a program to save and end after its starter is gone
FORWARDED = (signal.SIGTERM, signal.SIGUSR1)


class Signals:
    """Stores SIGTERM and SIGUSR1 of this process, for its loop to pass on; ``received_any``: there was one."""

    def __init__(self) -> None:
        self.received_any = False
        self._received: list[int] = []
        for number in FORWARDED:
            signal.signal(number, self._keep)

    def _keep(self, number: int, _frame: FrameType | None) -> None:
        self.received_any = True
        self._received.append(number)

    def drain(self) -> Iterator[int]:
        """Yield the signals since the last call."""
        while self._received:
            yield self._received.pop(0)

    def ignore(self) -> None:
        """Ignore further signals, since a signal in the last moments would change the exit code."""
        for number in FORWARDED:
            signal.signal(number, signal.SIG_IGN)


def send(child: subprocess.Popen[bytes], number: int) -> None:
    """Send a signal to a child, unless it has ended."""
    if child.poll() is None:
        child.send_signal(number)


def exit_code_of(child: subprocess.Popen[bytes]) -> int | None:
    """Return the exit code of a child as a shell would (128 + n after signal n), or None while it runs."""
    code = child.poll()
    return None if code is None else shell_code(code)


class WrapperHeartbeat:
    """Detects that a process has stopped touching its file.

    ``now`` is monotonic, and file times are only compared with each other. With ``must_appear``, a file that never
    appears also counts.
    """

    def __init__(self, path: Path, patience: float, now: float, *, must_appear: bool = True) -> None:
        self.path, self.patience, self._must_appear = path, patience, must_appear
        self._modified_at: int | None = None
        self._changed = self._polled_at = now

    def lost(self, now: float) -> bool:
        """Return whether the file has been unchanged, or missing, for longer than the patience."""
        if now - self._polled_at >= self.patience / 20:
            self._polled_at = now
            modified_at = modified(self.path)
            if modified_at is not None and modified_at != self._modified_at:
                self._modified_at, self._changed = modified_at, now
        return now - self._changed > self.patience and (self._must_appear or self._modified_at is not None)


def supervise(
    child: subprocess.Popen[bytes],
    signals: Signals,
    over: Callable[[float], bool] | None,
    on_poll: Callable[[], None] = lambda: None,
) -> int | None:
    """Wait for the program and pass signals on; return its exit code, or None when ``over`` is true of the time.

    It calls ``on_poll`` in between.
    """
    clock = LivedTime()
    while True:
        for number in signals.drain():
            send(child, number)
        code = exit_code_of(child)
        if code is not None:
            return code
        if over is not None and over(clock()):
            return None
        on_poll()
        time.sleep(POLL_SECONDS)


def end_program(child: subprocess.Popen[bytes], grace: float = GRACE_SECONDS) -> None:
    """Ask a program to end, and kill it after the grace."""
    send(child, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        child.wait(grace)
    send(child, signal.SIGKILL)
    child.wait()
