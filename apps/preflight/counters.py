"""Which counters of energy this process may read."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")
CRAY = "/sys/cray/pm_counters"


def energy_counters(folder: str | None) -> tuple[dict[str, float], dict[str, str]]:
    """Return a reading (J) of each source that can be read here, and why the others cannot.

    Parameters
    ----------
    folder
        Of HPE Cray's counters; None: where they usually are.
    """
    sources: dict[str, Callable[[], float]] = {
        "pm_counters": lambda: _cray(Path(folder or CRAY)),
        "nvml": _nvml,
        "rapl": _rapl,
    }
    found, trouble = {}, {}
    for name, read in sources.items():
        try:
            found[name] = read()
        except (OSError, ValueError, IndexError, AttributeError) as error:  # noqa: PERF203 - three
            trouble[name] = str(error).splitlines()[0] if str(error) else type(error).__name__
    return found, trouble


def _cray(folder: Path) -> float:
    """Return the energy of the node; the file says e.g. ``123456 J 1700000000 us``."""
    return float((folder / "energy").read_text(encoding="ascii").split()[0])


def _rapl() -> float:
    """Return the energy of the processors; most systems let only root read it."""
    counters = sorted(POWERCAP.glob("intel-rapl:[0-9]*/energy_uj"))
    if not counters:
        raise OSError(f"{POWERCAP} has no intel-rapl counters")
    return sum(int(path.read_text(encoding="ascii")) for path in counters) / 1e6


def _nvml() -> float:
    """Return the energy of the first NVIDIA GPU since its driver was loaded."""
    library = ctypes.CDLL("libnvidia-ml.so.1")
    handle, millijoules = ctypes.c_void_p(), ctypes.c_ulonglong()
    _succeed(library.nvmlInit_v2(), "nvmlInit")
    try:
        _succeed(library.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(handle)), "nvmlDeviceGetHandleByIndex")
        code = library.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(millijoules))
        _succeed(code, "nvmlDeviceGetTotalEnergyConsumption")
    finally:
        library.nvmlShutdown()
    return millijoules.value / 1000


def _succeed(code: int, what: str) -> None:
    if code != 0:
        raise OSError(f"{what} returned {code}")
