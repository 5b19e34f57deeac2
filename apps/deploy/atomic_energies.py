"""Energies of atoms, as a model sums them to the energy of a structure."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from gfm_pipeline.core.contracts.targets import ENERGY
from gfm_pipeline.models import Potential
from gfm_pipeline.models.potential import part_name


@contextmanager
def recorded_atomic_energies(potential: Potential) -> Iterator[list[Tensor]]:
    """Collect the energies of atoms [N] (eV, relative to the references) of each batch that a model predicts.

    Each is the output of the energy's head, and the repulsion where there is one. Nothing is collected of a model
    without energies.
    """
    found: list[Tensor] = []
    if ENERGY not in potential.spec.targets:
        yield found
        return
    scale = potential.spec.scale(ENERGY)

    def keep(_module: Any, _inputs: Any, output: Tensor) -> None:
        found.append(output.detach() * scale)

    def add(_module: Any, _inputs: Any, output: Tensor) -> None:
        found[-1] = torch.add(found[-1], output.detach())  # the head comes before the repulsion

    with ExitStack() as hooks:
        hooks.callback(potential.get_submodule(part_name(ENERGY)).register_forward_hook(keep).remove)
        if potential.repulsion is not None:
            hooks.callback(potential.repulsion.register_forward_hook(add).remove)
        yield found
