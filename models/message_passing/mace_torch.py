"""MACE of the package mace-torch, through the interface of energies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gfm_pipeline.models.energy_backbone import EnergyBackbone
from gfm_pipeline.models.layers import MAX_Z
from gfm_pipeline.models.spec import ModelSpec


class MACETorch(EnergyBackbone):
    """ScaleShiftMACE of mace-torch (Batatia et al., NeurIPS 2022), from random weights.

    Elements are those of the training data (all elements when not known). mace-torch computes edge vectors from
    positions and shifts, so its positions are zeros and its shifts are the edge vectors.
    """

    table: Tensor

    def __init__(self, spec: ModelSpec, options: Mapping[str, Any]) -> None:
        super().__init__(spec, options)
        with torch.serialization.safe_globals([slice]):  # from a table that its e3nn reads at import
            from e3nn import o3
            from mace import modules

        elements = list(spec.elements or range(1, MAX_Z + 1))
        width, hidden_l, l_max = spec.hidden, int(options["hidden_l"]), int(options["l_max"])
        block = modules.interaction_classes["RealAgnosticResidualInteractionBlock"]
        self.model = modules.ScaleShiftMACE(
            r_max=spec.cutoff,
            num_bessel=spec.n_radial,
            num_polynomial_cutoff=5,
            max_ell=l_max,
            interaction_cls=block,
            interaction_cls_first=modules.interaction_classes["RealAgnosticInteractionBlock"],
            num_interactions=spec.layers,
            num_elements=len(elements),
            hidden_irreps=o3.Irreps(" + ".join(f"{width}x{k}{'eo'[k % 2]}" for k in range(hidden_l + 1))),
            MLP_irreps=o3.Irreps("16x0e"),
            gate=torch.nn.functional.silu,
            atomic_energies=np.zeros(len(elements)),
            avg_num_neighbors=spec.avg_neighbours,
            atomic_numbers=elements,
            correlation=int(options["correlation"]),
            atomic_inter_scale=spec.force_rms,
            atomic_inter_shift=0.0,
        )
        place = torch.zeros(MAX_Z + 1, dtype=torch.int64)
        place[torch.tensor(elements)] = torch.arange(len(elements))
        self.register_buffer("table", torch.eye(len(elements))[place], persistent=False)

    def energy(self, z: Tensor, vec: Tensor, src: Tensor, dst: Tensor, batch: Tensor) -> Tensor:
        """See `EnergyBackbone.energy`; energies of atoms [N]."""
        one = z.new_zeros(1)
        data = {
            "positions": vec.new_zeros(z.shape[0], 3),
            "shifts": vec,
            "unit_shifts": torch.zeros_like(vec),
            "cell": vec.new_zeros(3, 3),
            "node_attrs": self.table.index_select(0, z).to(vec.dtype),
            "edge_index": torch.stack([src, dst]),
            "batch": torch.zeros_like(batch),  # energies are of atoms: the heads separate structures
            "ptr": torch.cat([one, one + z.shape[0]]),
        }
        found: Tensor = self.model(data, training=True, compute_force=False)["node_energy"]
        return found.to(vec.dtype)
