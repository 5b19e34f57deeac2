"""The device of a program, and its memory."""

from __future__ import annotations

import contextlib
import ctypes
import resource
import socket
import sys
import warnings

import torch

from gfm_pipeline.core.contracts.optimisation.settings import Precision
from gfm_pipeline.core.contracts.training import Device
from gfm_pipeline.core.errors import ConfigError, NodeError

CPU = torch.device("cpu")
# mallopt parameters of glibc's malloc.h
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3


def torch_device(device: Device) -> torch.device:
    """Return the first visible device of this kind; the starter of ranks makes one device visible to each.

    Raises
    ------
    ConfigError
        When this build of torch has no such devices.
    NodeError
        When torch supports them but none is present; another node may have one.
    """
    if device is Device.CPU:
        return CPU
    built = {
        Device.CUDA: torch.version.cuda is not None or torch.version.hip is not None,
        Device.XPU: getattr(torch.version, "xpu", None) is not None,
    }[device]
    if not built:
        raise ConfigError(
            f"The site computes on {device}, and torch {torch.__version__} was built without it.",
            "Install the build of torch that fits the site, or set gpu.runtime of the site to cpu.",
        )
    module = torch.cuda if device is Device.CUDA else torch.xpu
    if not module.is_available():
        raise NodeError(
            f"No {device} device is there on {socket.gethostname()}.", "See which GPUs its tasks are shown."
        )
    return torch.device(str(device), 0)


def set_precision(precision: Precision, device: torch.device) -> Precision:
    """Return the precision on ``device``: the requested one, or fp32 with a warning if tf32 is not supported.

    Products of float32 matrices have full precision unless tf32 is requested, since forces are differences of large
    numbers.

    Raises
    ------
    ConfigError
        When the device does not support the precision.
    """
    kind = str(device.type)
    if precision is Precision.TF32 and kind != Device.CUDA:
        warnings.warn(f"The device {kind} has no tf32: training computes in fp32.", stacklevel=2)
        precision = Precision.FP32
    missing = (precision is Precision.BF16 and kind == Device.CUDA and not torch.cuda.is_bf16_supported()) or (
        precision is Precision.FP64 and kind == Device.XPU and not torch.xpu.get_device_properties(device).has_fp64
    )
    if missing:
        raise ConfigError(
            f"The device {kind} of {socket.gethostname()} has no {precision}.", "Set search.space.precision to fp32."
        )
    torch.set_float32_matmul_precision("high" if precision is Precision.TF32 else "highest")
    return precision


def dtype_of(precision: Precision) -> torch.dtype:
    """Return the type of weights and batches."""
    return torch.float64 if precision is Precision.FP64 else torch.float32


def autocast(precision: Precision, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Return the autocast context for predictions in training."""
    if precision is not Precision.BF16:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def peak_memory(device: torch.device) -> int:
    """Return the peak memory of this process (bytes): on ``device``, or in total for a CPU."""
    if device.type == "cpu":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
    module = torch.cuda if device.type == "cuda" else torch.xpu
    return int(module.max_memory_allocated(device))


def keep_freed_memory() -> bool:
    """Raise glibc's thresholds for returning memory; return whether that was possible (Linux with glibc).

    glibc returns large blocks to the system after every step. Requesting them again costs more than half of a step with
    big batches: steps were 1.1 to 2.3 times faster without.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    mallopt.argtypes, mallopt.restype = [ctypes.c_int, ctypes.c_int], ctypes.c_int
    settings = ((_M_MMAP_THRESHOLD, 1 << 30), (_M_TRIM_THRESHOLD, (1 << 31) - 1), (_M_TOP_PAD, 64 << 20))
    return all(mallopt(key, value) == 1 for key, value in settings)
