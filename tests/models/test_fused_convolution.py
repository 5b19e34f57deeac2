"""Kernels of cuequivariance: the same numbers as PyTorch, by the package's reference implementation on the CPU."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from brute import Structure, batch, loss_of
from model_cases import CUTOFF, crystal, make, molecule

from gfm_pipeline.core.errors import ModelError
from gfm_pipeline.models import equivariant
from gfm_pipeline.models.message_passing.fused_convolution import REFERENCE, method_for

NAMES = ("MACE", "NequIP")


def structures() -> list[Structure]:
    return [molecule(1), crystal(2)]


def of_kernels(name: str, dtype: torch.dtype, **options: object) -> tuple[torch.Tensor, torch.Tensor, dict]:
    """Return energies, forces and the gradient by parameters of a small model."""
    model = make(name, options={"l_max": 2, **options}).to(dtype)
    data = batch(structures(), CUTOFF, dtype)
    out = model(data)
    loss_of(model, data).total.backward()
    return out.energy, out.forces, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.filterwarnings("ignore")  # of the package
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("name", NAMES)
def test_the_numbers_and_their_gradients_are_those_of_torch(name, dtype, tolerance, monkeypatch) -> None:
    pytest.importorskip("cuequivariance_torch", reason="cuequivariance-torch is not installed")
    energy, forces, gradient = of_kernels(name, dtype)
    asked: list[str] = []
    monkeypatch.setattr(equivariant, "method_for", lambda device: asked.append(device.type) or REFERENCE)
    fused = of_kernels(name, dtype, kernels="cuequivariance")
    assert asked
    torch.testing.assert_close(fused[0], energy, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(fused[1], forces, rtol=tolerance, atol=tolerance)
    assert fused[2].keys() == gradient.keys()
    for part, value in gradient.items():
        scale = float(value.abs().max()) + 1e-12
        torch.testing.assert_close(fused[2][part], value, rtol=0, atol=10 * tolerance * scale, msg=part)


@pytest.mark.parametrize("name", NAMES)
def test_without_a_gpu_or_the_package_torch_computes(name) -> None:
    """A model that was trained with kernels opens everywhere."""
    plain, asked = of_kernels(name, torch.float64), of_kernels(name, torch.float64, kernels="cuequivariance")
    torch.testing.assert_close(asked[1], plain[1], rtol=0, atol=0)
    assert method_for(torch.device("cpu")) is None
    if importlib.util.find_spec("cuequivariance_ops_torch") is None:
        assert method_for(torch.device("cuda")) is None


def test_other_kernels_are_refused() -> None:
    with pytest.raises(ModelError, match=r"kernels .*torch.*cuequivariance"):
        make("MACE", options={"kernels": "openequivariance"})
