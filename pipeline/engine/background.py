"""Slow queries (of a batch system) in a thread next to the driver's loop, one at a time."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class QueryResult:
    """The result of a query: a value, or its error."""

    what: str
    value: Any = None
    error: BaseException | None = None


class Background:
    """Runs queries in a separate thread; the driver's loop never waits for an answer."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batch-system")
        self._open: dict[str, Future[Any]] = {}

    def submit(self, what: str, question: Callable[[], Any]) -> bool:
        """Start a query unless the same one is in progress; return whether it started."""
        if what in self._open:
            return False
        self._open[what] = self._thread.submit(question)
        return True

    def results(self) -> list[QueryResult]:
        """Return the answers since the last call, in the order of the queries."""
        found = []
        for what, future in list(self._open.items()):
            if future.done():
                del self._open[what]
                error = future.exception()
                found.append(
                    QueryResult(what, error=error) if error is not None else QueryResult(what, future.result())
                )
        return found

    def close(self) -> None:
        """Drop waiting queries, and wait for the one in progress: a submission must not outlast its driver."""
        self._thread.shutdown(wait=True, cancel_futures=True)
