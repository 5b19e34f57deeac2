"""Free places of running launches, and the waiting tasks that take them."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from gfm_pipeline.engine.decisions.requests import AnyRequest
from gfm_pipeline.engine.resources.node_pool import NodePool
from gfm_pipeline.engine.resources.nodes import LEAST_SECONDS
from gfm_pipeline.engine.tasks.shared_launches import SharedLaunch, SharedLaunches
from gfm_pipeline.execution.size_class import SizeClass


class FreePlaces:
    """Places on good nodes whose tasks have ended, in launches that still get tasks.

    Parameters
    ----------
    shared
        The running launches.
    pool
        The nodes.
    now
        Monotonic seconds.
    """

    def __init__(self, shared: SharedLaunches, pool: NodePool, now: float) -> None:
        self._free: dict[SizeClass, list[tuple[SharedLaunch, int]]] = {}
        self._taken: dict[SharedLaunch, dict[int, AnyRequest]] = {}
        for launch in shared:
            if not pool.takes(launch.placement.block, now, LEAST_SECONDS):
                continue
            for place in launch.free():
                if pool.excluded.keys().isdisjoint(launch.places[place].running.placement.nodes):
                    self._free.setdefault(launch.size, []).append((launch, place))

    def __bool__(self) -> bool:
        """Whether any place is free."""
        return bool(self._free)

    def __contains__(self, size: SizeClass) -> bool:
        """Whether a place of ``size`` is free."""
        return size in self._free

    def take(self, request: AnyRequest, size: SizeClass, avoid: Collection[str]) -> bool:
        """Give a task a free place without nodes to avoid; return whether there was one."""
        free = self._free.get(size, [])
        for index, (launch, place) in enumerate(free):
            latest = launch.places[place].running
            if latest.request.key == request.key and not set(avoid).intersection(latest.placement.nodes):
                del free[index]
                if not free:
                    del self._free[size]
                self._taken.setdefault(launch, {})[place] = request
                return True
        return False

    def taken(self) -> Iterator[tuple[SharedLaunch, dict[int, AnyRequest]]]:
        """Yield each launch with new tasks, and the tasks by place."""
        yield from self._taken.items()
