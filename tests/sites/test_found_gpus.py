"""The local machine's GPUs: found by the tools of their drivers, used where PyTorch can, left alone where masked."""

from __future__ import annotations

from pathlib import Path

import pytest

from gfm_pipeline.sites import found_gpus as module
from gfm_pipeline.sites.enums import GpuRuntime
from gfm_pipeline.sites.found_gpus import found_gpus, torch_built_for
from gfm_pipeline.sites.registry import load_site

NVIDIA = "NVIDIA RTX A6000, 49140\nNVIDIA RTX A6000, 49140\n"
AMD = "device,VRAM Total Memory (B),VRAM Total Used Memory (B)\ncard0,68702699520,10\ncard1,68702699520,10\n"


@pytest.fixture
def tool(tmp_path, monkeypatch):
    """Return a function that puts a tool on PATH, and nothing else."""
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)

    def put(name: str, text: str, code: int = 0) -> None:
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n/bin/cat <<'END'\n{text}END\nexit {code}\n")
        path.chmod(0o755)

    return put


def test_gpus_are_found_and_the_local_site_has_them(tool, monkeypatch):
    assert found_gpus({}, lambda _: True) is None
    tool("nvidia-smi", NVIDIA)
    monkeypatch.setattr(module, "torch_built_for", lambda kind: kind == "cuda")
    site = load_site("local")
    assert (site.model.node.gpus, site.model.gpu.runtime, site.model.gpu.device) == (2, GpuRuntime.CUDA, "cuda")
    assert site.model.gpu.visible_variable == "CUDA_VISIBLE_DEVICES"
    assert site.model.node.gpu_type == "NVIDIA RTX A6000"
    assert site.model.node.gpu_memory_gb == pytest.approx(51.5)
    assert str(site.origin("node", "gpus")) == "found on this machine"
    assert load_site("frontier").model.node.gpus == 8  # asks nobody
    for setting in ("site.gpu.detect=false", "site.gpu.runtime=cpu", "site.node.gpus=0"):
        assert load_site("local", sets=[setting]).model.node.gpus == 0
    monkeypatch.setattr(module, "torch_built_for", lambda _: False)
    assert load_site("local").model.node.gpus == 0  # they are there, and this PyTorch cannot use them


@pytest.mark.parametrize(
    ("mask", "count"), [("", 0), ("-1", 0), ("0", 1), ("0,1", 2), ("1", 0), ("1,0", 0), ("0,1,2", 0)]
)
def test_a_mask_leaves_the_first_ones_or_none(tool, mask, count):
    tool("nvidia-smi", NVIDIA)
    found = found_gpus({"CUDA_VISIBLE_DEVICES": mask}, lambda _: True)
    assert (0 if found is None else found.count) == count


def test_amd_and_tools_that_say_nothing_of_use(tool):
    tool("rocm-smi", AMD)
    found = found_gpus({}, lambda _: True)
    assert found is not None
    assert (found.runtime, found.count, found.memory_gb) == (GpuRuntime.ROCM, 2, 68.7)
    tool("rocm-smi", AMD, code=3)
    tool("nvidia-smi", "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n", code=9)
    assert found_gpus({}, lambda _: True) is None
    tool("nvidia-smi", "Segmentation\n")
    assert found_gpus({}, lambda _: True) is None


def test_what_torch_was_built_for_is_read_and_not_imported(monkeypatch, tmp_path):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise SystemExit('imported')")
    version = tmp_path / "torch" / "version.py"
    origin = type("Spec", (), {"origin": str(tmp_path / "torch" / "__init__.py")})
    monkeypatch.setattr(module, "find_spec", lambda _: origin)
    version.write_text("cuda: Optional[str] = '13.0'\nhip: Optional[str] = None\n")
    assert (torch_built_for("cuda"), torch_built_for("hip")) == (True, False)
    version.write_text("cuda: Optional[str] = None\nhip: Optional[str] = '6.4'\n")
    assert (torch_built_for("cuda"), torch_built_for("hip")) == (False, True)
    Path(version).unlink()
    assert not torch_built_for("cuda")
