"""Counters of AMD's GPUs by AMD SMI's own Python bindings, which come with ROCm."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from gfm_pipeline.core.contracts.energy import CounterReading, EnergyScope

PERIOD = 0.1  # s; not documented, as for NVIDIA's
_ACCUMULATORS = ("energy_accumulator", "power")  # newer and older bindings
_MICRO = 1e-6


class AmdSmi:
    """All GPUs visible to this process; the two halves of an MI250X share the counter of the first."""

    def __init__(self, root: str) -> None:  # noqa: ARG002 - it has no files
        self._smi: Any = None
        self._devices: list[tuple[str, Any]] = []

    def read(self) -> dict[str, CounterReading]:
        """Return the counter of each GPU: accumulator x resolution (uJ)."""
        if self._smi is None:
            self._open()
        found = {}
        for number, (uuid, handle) in enumerate(self._devices):
            counts = self._query(self._smi.amdsmi_get_energy_count, handle)
            accumulated = next((counts[name] for name in _ACCUMULATORS if name in counts), None)
            if accumulated is None:
                raise OSError("AMD SMI gives no accumulator of energy")
            if not accumulated:  # the second half of a module
                continue
            joules = float(accumulated) * float(counts["counter_resolution"]) * _MICRO
            found[uuid] = CounterReading(joules, EnergyScope.GPU, PERIOD, device=number)
        if not found:
            raise OSError("AMD SMI sees no GPU that counts energy")
        return found

    def _open(self) -> None:
        try:
            smi = import_module("amdsmi")
        except (ImportError, OSError, KeyError) as error:
            raise OSError(f"AMD SMI cannot be loaded ({error})") from error
        self._query(smi.amdsmi_init)
        handles = self._query(smi.amdsmi_get_processor_handles)
        self._devices = [(str(self._query(smi.amdsmi_get_gpu_device_uuid, handle)), handle) for handle in handles]
        self._smi = smi

    @staticmethod
    def _query(call: Any, *arguments: Any) -> Any:
        try:
            return call(*arguments)
        except Exception as error:  # the bindings' own classes, which exist only where they are installed
            raise OSError(f"AMD SMI: {error}") from error
