"""Counters of NVIDIA's GPUs by the library of their driver, from Volta on; in mJ since the driver was loaded."""

from __future__ import annotations

import ctypes
from typing import Any

from gfm_pipeline.core.contracts.energy import CounterReading, EnergyScope

LIBRARY = "libnvidia-ml.so.1"
PERIOD = 0.1  # s; updates were seen every 20 to 100 ms
_UUID_BYTES = 96


class Nvml:
    """All GPUs visible to this process, by UUID."""

    def __init__(self, root: str) -> None:  # noqa: ARG002 - it has no files
        self._library: Any = None
        self._devices: list[tuple[str, Any]] = []

    def read(self) -> dict[str, CounterReading]:
        """Return the counter of each GPU."""
        if self._library is None:
            self._open()
        found = {}
        for number, (uuid, handle) in enumerate(self._devices):
            millijoules = ctypes.c_ulonglong()
            call = self._library.nvmlDeviceGetTotalEnergyConsumption
            _succeed(call(handle, ctypes.byref(millijoules)), "nvmlDeviceGetTotalEnergyConsumption")
            found[uuid] = CounterReading(millijoules.value / 1000.0, EnergyScope.GPU, PERIOD, device=number)
        return found

    def _open(self) -> None:
        library = ctypes.CDLL(LIBRARY)
        _succeed(library.nvmlInit_v2(), "nvmlInit_v2")
        count = ctypes.c_uint()
        _succeed(library.nvmlDeviceGetCount_v2(ctypes.byref(count)), "nvmlDeviceGetCount_v2")
        devices = []
        for number in range(count.value):
            handle, uuid = ctypes.c_void_p(), ctypes.create_string_buffer(_UUID_BYTES)
            _succeed(library.nvmlDeviceGetHandleByIndex_v2(number, ctypes.byref(handle)), "nvmlDeviceGetHandleByIndex")
            _succeed(library.nvmlDeviceGetUUID(handle, uuid, _UUID_BYTES), "nvmlDeviceGetUUID")
            devices.append((uuid.value.decode(errors="replace"), handle))
        if not devices:
            raise OSError("NVML sees no GPU")
        self._library, self._devices = library, devices


def _succeed(code: int, what: str) -> None:
    if code != 0:
        raise OSError(f"{what} returned {code}")
