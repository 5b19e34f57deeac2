"""The device a program computes on."""

from __future__ import annotations

import socket

import torch

from gfm_pipeline.core.contracts.training import Device
from gfm_pipeline.core.errors import ConfigError, NodeError

CPU = torch.device("cpu")


def torch_device(device: Device) -> torch.device:
    """Return the first device of this kind that this process sees: whoever starts ranks shows each of them one.

    Raises
    ------
    ConfigError
        When this build of torch has no such devices.
    NodeError
        When it has, and none is there: another node may have one.
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
