"""Counters of HPE Cray EX nodes: files of the form ``123456 J 1700000000 us``, about ten updates per second."""

from __future__ import annotations

from pathlib import Path

from gfm_pipeline.core.contracts.energy import CounterReading, EnergyScope

SCANS = 10.0  # per second, if the node does not state it


class CrayCounters:
    """The energy of the whole node, including accelerators, processors and memory."""

    def __init__(self, root: str) -> None:
        self._root = Path(root)

    def read(self) -> dict[str, CounterReading]:
        """Return the node's counter."""
        path = self._root / "energy"
        words = path.read_text(encoding="ascii", errors="replace").split()
        if len(words) < 2 or words[1] != "J":
            raise OSError(f"{path} holds no energy in J")
        try:
            joules = float(words[0])
        except ValueError:
            raise OSError(f"{path} holds {words[0]!r} where joules should be") from None
        return {"node": CounterReading(joules, EnergyScope.NODE, 1.0 / self._scans())}

    def _scans(self) -> float:
        try:
            found = float((self._root / "raw_scan_hz").read_text(encoding="ascii").split()[0])
        except (OSError, ValueError, IndexError):
            return SCANS
        return found if found > 0 else SCANS
