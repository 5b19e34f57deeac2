"""NequIP of the package nequip, through the interface of energies."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gfm_pipeline.models.energy_backbone import EnergyBackbone
from gfm_pipeline.models.layers import MAX_Z
from gfm_pipeline.models.spec import ModelSpec


class NequIPPackage(EnergyBackbone):
    """The GNN of nequip (Batzner et al., Nat. Commun. 13, 2453, 2022), from random weights.

    Elements are those of the training data (all elements when not known). nequip accepts edge vectors directly. The
    call goes to its inner builder, because the wrapper would set the seed and the default dtype of the whole process.
    """

    table: Tensor

    def __init__(self, spec: ModelSpec, options: Mapping[str, Any]) -> None:
        super().__init__(spec, options)
        with warnings.catch_warnings(), torch.serialization.safe_globals([slice]):
            warnings.simplefilter("ignore")  # deprecations within nequip itself
            from nequip.data import AtomicDataDict
            from nequip.model.nequip_models import FullNequIPGNNModel

            # their names, and not the module that holds them, which copies of the model could not copy
            self._positions, self._types = str(AtomicDataDict.POSITIONS_KEY), str(AtomicDataDict.ATOM_TYPE_KEY)
            self._edges, self._vectors = str(AtomicDataDict.EDGE_INDEX_KEY), str(AtomicDataDict.EDGE_VECTORS_KEY)
            self._energies = str(AtomicDataDict.PER_ATOM_ENERGY_KEY)
            self.model = inspect.unwrap(FullNequIPGNNModel)(**self._settings())
        elements = self._elements()
        place = torch.zeros(MAX_Z + 1, dtype=torch.int64)
        place[torch.tensor(elements)] = torch.arange(len(elements))
        self.register_buffer("table", place, persistent=False)

    def _apply(self, change: Any, recurse: bool = True) -> NequIPPackage:
        """Move or convert the model; nequip's modules store the dtype of their construction."""
        super()._apply(change, recurse)  # type: ignore[no-untyped-call]
        dtype = next(self.parameters()).dtype
        for module in self.modules():
            if hasattr(module, "_output_dtype"):
                setattr(module, "_output_dtype", dtype)  # noqa: B010 - no attribute that modules declare
        return self

    def _elements(self) -> list[int]:
        return list(self.spec.elements or range(1, MAX_Z + 1))

    def _settings(self) -> dict[str, Any]:
        """Return the settings for nequip's builder."""
        spec, l_max = self.spec, int(self.options["l_max"])
        irreps = [f"{spec.hidden}x{order}{parity}" for order in range(l_max + 1) for parity in "eo"]
        width = int(self.options["radial_hidden"])
        return {
            "r_max": spec.cutoff,
            "type_names": [f"Z{z}" for z in self._elements()],
            "radial_mlp_depth": [1 if width else 0] * spec.layers,
            "radial_mlp_width": [width or spec.hidden] * spec.layers,
            "feature_irreps_hidden": ["+".join(irreps)] * (spec.layers - 1) + [f"{spec.hidden}x0e"],
            "irreps_edge_sh": "+".join(f"1x{order}{'eo'[order % 2]}" for order in range(l_max + 1)),
            "type_embed_num_features": spec.hidden,
            "num_bessels": spec.n_radial,
            "avg_num_neighbors": spec.avg_neighbours,
            "per_type_energy_scales": spec.force_rms,
            "per_type_energy_shifts": 0.0,
            "do_derivatives": False,
        }

    def energy(self, z: Tensor, vec: Tensor, src: Tensor, dst: Tensor, batch: Tensor) -> Tensor:  # noqa: ARG002
        """See `EnergyBackbone.energy`; energies of atoms [N]."""
        data = {
            self._positions: vec.new_zeros(z.shape[0], 3),
            self._types: self.table.index_select(0, z),
            self._edges: torch.stack([dst, src]),
            self._vectors: -vec,  # from the atom that sums messages
        }
        found: Tensor = self.model(data)[self._energies]
        return found.view(-1).to(vec.dtype)
