"""Enumerations of sites: accelerators, places of the driver, staging."""

from __future__ import annotations

from gfm_pipeline.core.strenum import StrEnum


class GpuRuntime(StrEnum):
    """Programming environments of accelerators; ``cpu`` means there are none."""

    CPU = "cpu"
    ROCM = "rocm"
    CUDA = "cuda"
    XPU = "xpu"


class DriverMode(StrEnum):
    """Where the driver of a campaign lives."""

    LOCAL = "local"  # on this machine, beside its tasks
    RESIDENT = "resident"  # on the first node of the allocation it uses; jobs are chained
    PILOT = "pilot"  # on a login or workflow node; it submits blocks of nodes


class Staging(StrEnum):
    """How the Python environment reaches node-local storage."""

    NONE = "none"  # it is read from the shared file system
    SBCAST = "sbcast"  # conda-pack archive, broadcast by sbcast (exit code checked), unpacked on every node
