"""Signals to the driver: the first stops it in order, the second at once."""

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
    """Requests of signals to the driver.

    Attributes
    ----------
    requested
        Set by the first signal.
    at_once
        Called by the second signal, before the process ends at once, as if it had been killed. This is
        safe, since a campaign survives a kill at any time.
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
        """Handle a signal."""
        if self.requested.is_set():
            with suppress(Exception):  # the driver ends now, in any state
                self.at_once()
            os._exit(128 + number)
        self.requested.set()
        self.number = number
        with suppress(OSError, RuntimeError):  # no reader, or the signal interrupted other output
            self._notify("\nStopping: running tasks save a checkpoint first; again to stop at once.")

    def warn(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - the signature of a handler
        """Handle the batch system's warning."""
        self.warned.set()


@contextmanager
def stopping(warning: str | None, notify: Callable[[str], None]) -> Iterator[Stopper]:
    """Yield the object that SIGINT, SIGTERM, SIGHUP and ``warning`` (``USR1``) act on within the ``with`` block.

    Signals that were ignored at the start of this process stay ignored: SIGHUP under ``nohup``, SIGINT in the
    background of a script. Outside the main thread, there is no effect: Python gives signals only to the main thread.
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
