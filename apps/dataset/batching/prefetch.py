"""Making the next item while the last one is used."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")

_PATIENCE = 0.1  # seconds between looks at whether the consumer has left


class Prefetcher(Generic[T]):
    """Runs an iterator in a separate thread, one item ahead of the consumer.

    An error of the iterator is raised by `get`, after the items before it. The thread ends with the iterator, after
    an error, or after `close`, which must be called.
    """

    def __init__(self, items: Iterator[T], name: str) -> None:
        self._queue: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(maxsize=1)
        self._left = threading.Event()
        # a daemon: a file system that hangs must not keep the process from ending
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
        """Return the next item, waiting for it; raises what the iterator raised, StopIteration at its end."""
        item, error = self._queue.get()
        if error is not None:
            self._left.set()
            self._queue.put((None, error))  # who asks again hears it again
            raise error
        return item  # type: ignore[return-value]

    def close(self, seconds: float = 10.0) -> None:
        """Tell the thread to leave and wait for it, at most so long."""
        self._left.set()
        self._thread.join(seconds)
