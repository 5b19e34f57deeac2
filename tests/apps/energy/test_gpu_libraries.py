"""Counters of GPUs by their vendors' libraries, which stand-ins play here: no machine of the tests has a GPU."""

from __future__ import annotations

import ctypes
import sys
from types import SimpleNamespace

import pytest
from counter_tree import RaplTree

from gfm_pipeline.apps.energy.amd_smi import AmdSmi
from gfm_pipeline.apps.energy.node_meter import NodeMeter
from gfm_pipeline.apps.energy.nvml import Nvml
from gfm_pipeline.core.contracts.energy import EnergyPlan, EnergyScope, source_order


class FakeNvml:
    """Two GPUs; ``refuses`` is the call that returns an error."""

    def __init__(self, refuses: str = "") -> None:
        self.refuses, self.millijoules = refuses, [5_000, 7_500]

    def __getattr__(self, name):
        def call(*arguments):
            if name == self.refuses:
                return 3
            if name == "nvmlDeviceGetCount_v2":
                arguments[0]._obj.value = 2
            elif name == "nvmlDeviceGetHandleByIndex_v2":
                arguments[1]._obj.value = 100 + arguments[0]
            elif name == "nvmlDeviceGetUUID":
                arguments[1].value = f"GPU-{arguments[0].value}".encode()
            elif name == "nvmlDeviceGetTotalEnergyConsumption":
                arguments[1]._obj.value = self.millijoules[arguments[0].value - 100]
            return 0

        return call


def test_nvidia_counts_millijoules_per_gpu(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda _: FakeNvml())
    found = Nvml("").read()
    assert {name: (r.joules, r.device) for name, r in found.items()} == {"GPU-100": (5.0, 0), "GPU-101": (7.5, 1)}
    assert {r.scope for r in found.values()} == {EnergyScope.GPU}


@pytest.mark.parametrize("call", ["nvmlInit_v2", "nvmlDeviceGetUUID", "nvmlDeviceGetTotalEnergyConsumption"])
def test_a_driver_that_refuses_is_named(monkeypatch, call):
    monkeypatch.setattr(ctypes, "CDLL", lambda _: FakeNvml(call))
    with pytest.raises(OSError, match=f"{call} returned 3"):
        Nvml("").read()


@pytest.mark.parametrize("name", ["energy_accumulator", "power"])
def test_amd_counts_accumulator_times_resolution_once_per_module(monkeypatch, name):
    counts = {1: {name: 2_000_000, "counter_resolution": 15.3}, 2: {name: 0, "counter_resolution": 15.3}}
    fake = SimpleNamespace(
        amdsmi_init=lambda: None,
        amdsmi_get_processor_handles=lambda: [1, 2],
        amdsmi_get_gpu_device_uuid=lambda handle: f"uuid-{handle}",
        amdsmi_get_energy_count=lambda handle: counts[handle],
    )
    monkeypatch.setitem(sys.modules, "amdsmi", fake)
    assert {k: r.joules for k, r in AmdSmi("").read().items()} == {"uuid-1": pytest.approx(30.6)}


def test_gpus_and_processors_are_read_beside_each_other_and_no_gpu_twice(monkeypatch, tmp_path):
    monkeypatch.setattr(ctypes, "CDLL", lambda _: FakeNvml())
    rapl = RaplTree(tmp_path / "rapl", packages=1)
    meter = NodeMeter(EnergyPlan(source_order(), {"rapl": str(rapl.root), "pm_counters": str(tmp_path / "none")}))
    assert meter.source == "nvml+rapl"
    assert sorted(meter.read()) == ["nvml:GPU-100", "nvml:GPU-101", "rapl:intel-rapl:0", "rapl:intel-rapl:0:1"]
