"""A tree of counter files as nodes have them, whose counters a test moves."""

from __future__ import annotations

from pathlib import Path


class CrayTree:
    """``/sys/cray/pm_counters`` of a node with four accelerator modules."""

    def __init__(self, root: Path, joules: float = 1_000_000.0) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)
        (root / "raw_scan_hz").write_text("10\n")
        for name in ("cpu_energy", "memory_energy", "accel0_energy", "accel1_energy"):
            (root / name).write_text("4000 J 1700000000000000 us\n")  # within the node's: never to be added
        (root / "power").write_text("700 W 1700000000000000 us\n")
        self.set(joules)

    def set(self, joules: float) -> None:
        self.joules = joules
        (self.root / "energy").write_text(f"{joules:.0f} J 1700000000000000 us\n")

    def add(self, joules: float) -> None:
        self.set(self.joules + joules)

    def vanish(self) -> None:
        (self.root / "energy").unlink()


class RaplTree:
    """``/sys/class/powercap`` of a machine with two packages, their cores and memory, and a sensor of all of it."""

    RANGE = 262_143_328_850  # uJ

    def __init__(self, root: Path, packages: int = 2) -> None:
        self.root = root
        for number in range(packages):
            self._zone(f"intel-rapl:{number}", f"package-{number}")
            self._zone(f"intel-rapl:{number}:0", "core")
            self._zone(f"intel-rapl:{number}:1", "dram")
        self._zone(f"intel-rapl:{packages}", "psys")

    def _zone(self, zone: str, name: str) -> None:
        (self.root / zone).mkdir(parents=True)
        (self.root / zone / "name").write_text(f"{name}\n")
        (self.root / zone / "max_energy_range_uj").write_text(f"{self.RANGE}\n")
        self.set(zone, 1_000_000)

    def set(self, zone: str, microjoules: int) -> None:
        (self.root / zone / "energy_uj").write_text(f"{microjoules % self.RANGE}\n")

    def value(self, zone: str) -> int:
        return int((self.root / zone / "energy_uj").read_text())

    def add(self, zone: str, joules: float) -> None:
        self.set(zone, self.value(zone) + int(joules * 1e6))
