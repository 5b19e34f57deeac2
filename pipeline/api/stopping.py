"""Signals to the driver: the first stops politely, the second at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

WATCHED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopper:
    """What signals ask of the driver.

    Attributes
    ----------
    requested
        Set by the first signal.
    at_once
        Called by the second one, before the process ends where it stands, as if it had been killed; that is as
        safe, since a campaign survives being killed anywhere.
    warned
        Set by the batch system's warning that the wall time is nearly over.
    number
        The first signal.
    """

    def __init__(self, notify: Callable[[str], None]) -> None:
        self._notify = notify
        self.requested = threading.Event()
        self.warned = threading.Event()
        self.number: int | None = None
        self.at_once: Callable[[], None] = lambda: None

    def handle(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - the signature of a handler
        """Take a signal."""
        if self.requested.is_set():
            with suppress(Exception):  # whatever state the driver is in, it ends now
                self.at_once()
            os._exit(128 + number)
        self.requested.set()
        self.number = number
        with suppress(OSError, RuntimeError):  # nobody reads it, or the signal came amid another word
            self._notify("\nStopping: running tasks save a checkpoint first; again to stop at once.")

    def warn(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - the signature of a handler
        """Take the batch system's warning."""
        self.warned.set()


@contextmanager
def stopping(warning: str | None, notify: Callable[[str], None]) -> Iterator[Stopper]:
    """Yield what SIGINT, SIGTERM and SIGHUP act on, and ``warning`` (``USR1``), while in the ``with``.

    A signal that this process was started to ignore stays ignored: SIGHUP under ``nohup``, SIGINT in the background of
    a script. Outside of the main thread no signal is heard: Python hands them to the main thread alone.
    """
    stopper = Stopper(notify)
    if threading.current_thread() is not threading.main_thread():
        yield stopper
        return
    handled = [s for s in WATCHED if signal.getsignal(s) is not signal.SIG_IGN]
    before: dict[int, Callable[..., Any] | int | None] = {s: signal.signal(s, stopper.handle) for s in handled}
    number = None if warning is None else getattr(signal, f"SIG{warning}", None)
    if number is not None and number not in before:
        before[number] = signal.signal(number, stopper.warn)
    try:
        yield stopper
    finally:
        for number, old in before.items():
            signal.signal(number, old)
