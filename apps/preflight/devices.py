"""The devices that torch supports and sees."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from gfm_pipeline.apps.train.device import torch_device
from gfm_pipeline.core.contracts.preflight import RankObservation
from gfm_pipeline.core.contracts.training import Device
from gfm_pipeline.core.errors import GFMError

PCI = Path("/sys/bus/pci/devices")
SIDE = 512  # size of the matrices for the test of a device


def observe_device(observation: RankObservation, device: Device) -> RankObservation:
    """Return the observation with torch's build and device, after a small computation on it."""
    observation = replace(observation, build=build())
    if device is Device.CPU:
        return observation
    module = torch.cuda if device is Device.CUDA else torch.xpu
    try:
        observation = replace(observation, devices=int(module.device_count()))
        place = torch_device(device)
        properties = module.get_device_properties(0)
        observation = replace(
            observation, device=str(getattr(properties, "name", "")), device_cores=cores_beside(properties)
        )
        ones = torch.ones((SIDE, SIDE), device=place)
        total = float((ones @ ones).sum())
    except (GFMError, RuntimeError, AssertionError) as error:
        return replace(observation, device_trouble=str(error).splitlines()[0])
    return observation if total == float(SIDE) ** 3 else replace(observation, device_trouble="it computes wrongly")


def build() -> str:
    """Return the platform of torch's build, with the version."""
    for name, version in (
        ("rocm", torch.version.hip),
        ("cuda", torch.version.cuda),
        ("xpu", getattr(torch.version, "xpu", None)),
    ):
        if version:
            return f"{name} {version}"
    return "cpu"


def cores_beside(properties: Any) -> str:
    """Return the hardware threads near a device according to Linux; '' when not known."""
    domain, bus, device = (getattr(properties, f"pci_{part}_id", None) for part in ("domain", "bus", "device"))
    if not (isinstance(domain, int) and isinstance(bus, int) and isinstance(device, int)):
        return ""
    address = f"{domain:04x}:{bus:02x}:{device:02x}.0"
    try:
        return (PCI / address / "local_cpulist").read_text(encoding="ascii").strip()
    except OSError:
        return ""
