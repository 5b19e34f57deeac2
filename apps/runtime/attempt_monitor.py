"""Decides from times and files when a running program must end."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

from gfm_pipeline.apps.runtime.launch import Launch, request_of
from gfm_pipeline.core.contracts.task import (
    FIRST_FAILURE_FILE,
    HEARTBEAT_FILE,
    STOP_FILE,
)
from gfm_pipeline.core.visibility import is_there, modified

LAUNCHER_SECONDS = 10.0  # for the launcher to end all ranks after one has failed


class AttemptMonitor:
    """Decides when a program must end, from times and files only.

    The clock is monotonic, without the time for which the wrapper was suspended together with its program.
    """

    def __init__(self, launch: Launch, now: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.launch, self.clock = launch, clock
        self.folder = Path(launch.folder)
        self.timed_out = self.silent = self.stopped = False
        self.started = self._heartbeat_at = now
        self._heartbeat: int | None = None
        self._stop_requested: float | None = None
        self._failed: float | None = None

    @property
    def over(self) -> bool:
        """Whether the program was asked to end, or one of its ranks failed."""
        return self._stop_requested is not None or self._failed is not None or self.silent

    @property
    def begun(self) -> bool:
        """Whether the program has sent a heartbeat."""
        return self._heartbeat is not None

    def again(self, now: float) -> None:
        """Count a new start as a heartbeat."""
        self._heartbeat_at = now

    def poll(self, now: float) -> signal.Signals | None:
        """Return the signal to send now, if any; ``now`` is the clock's time."""
        heartbeat = modified(self.folder / HEARTBEAT_FILE)
        if heartbeat != self._heartbeat:  # changed, not young: file times may come from another machine's clock
            self._heartbeat, self._heartbeat_at = heartbeat, now
        if self._failed is None and is_there(self.folder / FIRST_FAILURE_FILE):
            self._failed = now
        if self._stop_requested is None:
            if self._failed is not None and now - self._failed > LAUNCHER_SECONDS:
                self._stop_requested = now
                return signal.SIGTERM
            self.timed_out = now - self.started > self.launch.deadline_seconds
            self.stopped = not self.timed_out and is_there(self.folder / STOP_FILE)
            if self.timed_out or self.stopped:
                self._stop_requested = now
                return request_of(self.launch)
            self.silent = now - self._heartbeat_at > self.launch.heartbeat_timeout_seconds
            return signal.SIGKILL if self.silent else None
        return signal.SIGKILL if now - self._stop_requested > self.launch.grace_seconds else None
