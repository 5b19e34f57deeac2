"""Counters of processors and memory by Linux' powercap, in microjoules; most systems let only root read them."""

from __future__ import annotations

from pathlib import Path

from gfm_pipeline.core.contracts.energy import CounterReading, EnergyScope

PERIOD = 0.001  # s between two updates
INNER = ("dram",)  # zones within a package that are not part of its counter


class Rapl:
    """Each package and its memory. A package includes cores and graphics; ``psys`` includes all of them."""

    def __init__(self, root: str) -> None:
        self._root = Path(root)

    def read(self) -> dict[str, CounterReading]:
        """Return the counters of all packages and their memory."""
        found: dict[str, CounterReading] = {}
        for zone in sorted(self._root.glob("intel-rapl:*")):
            name = _text(zone / "name")
            if not (name in INNER if zone.name.count(":") > 1 else name.startswith("package")):
                continue
            found[zone.name] = CounterReading(
                _microjoules(zone / "energy_uj"),
                EnergyScope.PACKAGE,
                PERIOD,
                _microjoules(zone / "max_energy_range_uj"),
            )
        if not found:
            raise OSError(f"{self._root} has no intel-rapl counters")
        return found


def _text(path: Path) -> str:
    return path.read_text(encoding="ascii", errors="replace").strip()


def _microjoules(path: Path) -> float:
    try:
        return int(_text(path)) / 1e6
    except ValueError:
        raise OSError(f"{path} holds no number") from None
