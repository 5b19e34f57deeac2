"""GPUs of this machine, as reported by the tools of their drivers; PyTorch is not imported.

A missing, slow or unexpected tool reports no GPUs. GPUs without support in the installed PyTorch are not used.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from shutil import which

from gfm_pipeline.sites.enums import GpuRuntime

SECONDS = 20.0  # seconds; loading a driver takes a while


@dataclass(frozen=True)
class FoundGpus:
    """GPUs that tasks may use: their runtime, number, name, and the memory of the smallest (GB)."""

    runtime: GpuRuntime
    visible_variable: str
    count: int
    kind: str
    memory_gb: float


@dataclass(frozen=True)
class GpuTool:
    """A tool that lists GPUs.

    Parameters
    ----------
    command
        Its command line.
    parse
        Converts its output to the name and the memory (GB) of each GPU.
    visible_variable
        Variable that masks GPUs from a program.
    built_for
        Variable in ``torch/version.py`` that is not None in builds for these GPUs.
    """

    command: tuple[str, ...]
    runtime: GpuRuntime
    visible_variable: str
    built_for: str
    parse: Callable[[str], list[tuple[str, float]]]


def _nvidia(text: str) -> list[tuple[str, float]]:
    rows = [line.rpartition(",") for line in text.splitlines() if line.strip()]
    return [(name.strip(), float(mebibytes) * 2**20 / 1e9) for name, _, mebibytes in rows]


def _amd(text: str) -> list[tuple[str, float]]:
    rows = [line.split(",") for line in text.splitlines() if line.startswith("card")]
    return [("AMD GPU", float(row[1]) / 1e9) for row in rows]


TOOLS = (
    GpuTool(
        ("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"),
        GpuRuntime.CUDA,
        "CUDA_VISIBLE_DEVICES",
        "cuda",
        _nvidia,
    ),
    GpuTool(
        ("rocm-smi", "--showmeminfo", "vram", "--csv"), GpuRuntime.ROCM, "ROCR_VISIBLE_DEVICES", "hip", _amd
    ),
)  # fmt: skip


def found_gpus(environment: Mapping[str, str], built_for: Callable[[str], bool] | None = None) -> FoundGpus | None:
    """Return the GPUs that tasks on this machine may use, or None.

    Parameters
    ----------
    environment
        Environment variables; a mask must name the first GPUs in order, or no GPU is used.
    built_for
        Whether the installed PyTorch supports a kind of GPU; None: read it from the installation.
    """
    for tool in TOOLS:
        listed = _listed(tool) if (built_for or torch_built_for)(tool.built_for) else []
        count = _visible(environment.get(tool.visible_variable), len(listed))
        if count:
            kinds = sorted({name for name, _ in listed[:count]})
            memory = min(gigabytes for _, gigabytes in listed[:count])
            return FoundGpus(tool.runtime, tool.visible_variable, count, ", ".join(kinds), round(memory, 1))
    return None


def torch_built_for(kind: str) -> bool:
    """Return whether the installed PyTorch is a build for ``cuda`` or ``hip``, without importing it."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return False
    try:
        text = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    except OSError:
        return False
    return re.search(rf"^{kind}\b[^=\n]*=\s*['\"]", text, re.MULTILINE) is not None


def _listed(tool: GpuTool) -> list[tuple[str, float]]:
    if which(tool.command[0]) is None:
        return []
    try:
        done = subprocess.run(
            tool.command, capture_output=True, text=True, timeout=SECONDS, check=True, stdin=subprocess.DEVNULL
        )
        return tool.parse(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return []


def _visible(mask: str | None, count: int) -> int:
    """Return how many of ``count`` GPUs a mask keeps if it names the first ones in order; 0 for other masks."""
    if mask is None:
        return count
    shown = [part.strip() for part in mask.split(",") if part.strip()]
    return len(shown) if shown == [str(k) for k in range(len(shown))] and len(shown) <= count else 0
