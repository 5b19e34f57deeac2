"""A node's energy counter that goes on by itself, as those of real nodes do, at a power that changes."""

from __future__ import annotations

import math
import threading
import time
from pathlib import Path
from types import TracebackType

PERIOD = 0.02  # seconds between two updates
# Mean power, by how much it swings about it, and in how many seconds once: time that nobody counted is taken at mean
# power, which is right to a part of one swing, 500 W * 0.7 s / pi for each node.
WATTS, SWING, TURN = 900.0, 500.0, 0.7


def joules(when: float) -> float:
    """Return what the counter shows at a time (Unix seconds): the integral of a power that swings."""
    return 1e6 + WATTS * (when % 1e6) - SWING * TURN / math.tau * math.cos(math.tau * when / TURN)


class TickingCounter:
    """A folder like ``/sys/cray/pm_counters`` whose ``energy`` moves; a context manager."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> TickingCounter:
        self.root.mkdir(parents=True, exist_ok=True)
        (self.root / "raw_scan_hz").write_text(f"{1 / PERIOD:.0f}\n")
        self._write()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()

    def _tick(self) -> None:
        while not self._over.wait(PERIOD):
            self._write()

    def _write(self) -> None:
        now = time.time()
        temporary = self.root / ".energy"
        temporary.write_text(f"{joules(now):.0f} J {int(now * 1e6)} us\n")
        temporary.replace(self.root / "energy")
