"""Computes the next item while the current one is in use."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")

_PATIENCE = 0.1  # seconds between checks whether the consumer has left


class Prefetcher(Generic[T]):
    """Runs an iterator in a separate thread, one item ahead of the consumer.

    `get` raises an error of the iterator after the items before it. The thread ends with the iterator, after an error,
    or after `close`, which the consumer must call.
    """

    def __init__(self, items: Iterator[T], name: str) -> None:
        self._queue: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(maxsize=1)
        self._left = threading.Event()
        # a daemon: a hanging file system must not prevent the process from ending
        self._thread = threading.Thread(target=self._run, args=(items,), name=name, daemon=True)
        self._thread.start()

    def _run(self, items: Iterator[T]) -> None:
        try:
            for item in items:
                if not self._put(item, None):
                    return
            self._put(None, StopIteration())
        except BaseException as error:  # noqa: BLE001 - it is raised where the items are taken
            self._put(None, error)

    def _put(self, item: T | None, error: BaseException | None) -> bool:
        while not self._left.is_set():
            try:
                self._queue.put((item, error), timeout=_PATIENCE)
            except queue.Full:
                continue
            return True
        return False

    def get(self) -> T:
        """Wait for the next item and return it; raises the iterator's error, and StopIteration at its end."""
        item, error = self._queue.get()
        if error is not None:
            self._left.set()
            self._queue.put((None, error))  # for further calls
            raise error
        return item  # type: ignore[return-value]

    def close(self, seconds: float = 10.0) -> None:
        """Ask the thread to end and wait for it for a limited time."""
        self._left.set()
        self._thread.join(seconds)
