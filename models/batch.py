"""The typed batch that every model and loss uses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """A disjoint union of G periodic or finite structures with N atoms and E directed edges.

    Edge k goes from atom ``edge_src[k]`` to atom ``edge_dst[k]``; its vector is
    ``pos[dst] - pos[src] + shift``, messages are summed at ``dst``. Both directions of every pair are
    present. Positions in Angstrom, energies in eV, forces in eV/Angstrom.

    Attributes
    ----------
    z
        Atomic numbers [N], int64.
    pos
        Positions [N, 3].
    edge_src, edge_dst
        Atom indices [E], int64.
    edge_shift
        Cartesian displacement of the image of ``dst`` [E, 3].
    graph
        Structure of each atom [N], int64, ascending.
    natoms
        Atoms of each structure [G], int64.
    dataset
        Branch (dataset index) of each structure [G], int64.
    cell
        Lattice vectors as rows [G, 3, 3], zero along directions without periodicity; None: not known.
    attributes
        By name (`gfm_pipeline.core.contracts.properties.attributes`), one number per structure [G]; NaN when not known
        (for multiplicities also 0). Empty: no attribute is known.
    labels
        By name of a target: values of structures [G, ...] or atoms [N, ...], minus their references, with the shape of
        the target's rank; NaN for a missing label. Empty in predictions.
    weights
        By name of a target, the weight of each structure's labels in the loss [G]; 1 for targets without an entry.
    """

    z: Tensor
    pos: Tensor
    edge_src: Tensor
    edge_dst: Tensor
    edge_shift: Tensor
    graph: Tensor
    natoms: Tensor
    dataset: Tensor
    cell: Tensor | None = None
    attributes: Mapping[str, Tensor] = field(default_factory=dict)
    labels: Mapping[str, Tensor] = field(default_factory=dict)
    weights: Mapping[str, Tensor] = field(default_factory=dict)

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> Batch:
        """Return this batch on ``device``, real numbers as ``dtype`` (None: unchanged); itself if nothing changes."""
        wanted = self.pos.dtype if dtype is None else dtype
        if self.z.device == device and self.pos.dtype == wanted:
            return self

        def moved(tensor: Tensor) -> Tensor:
            # copies to a device need not be waited for; those from a device must be complete
            free = device.type != "cpu"
            kind = wanted if tensor.is_floating_point() else tensor.dtype
            return tensor.to(device, kind, non_blocking=free)

        tensors = {f.name: value for f in fields(self) if isinstance(value := getattr(self, f.name), Tensor)}
        return replace(
            self,
            **{name: moved(tensor) for name, tensor in tensors.items()},
            attributes={name: moved(tensor) for name, tensor in self.attributes.items()},
            labels={name: moved(tensor) for name, tensor in self.labels.items()},
            weights={name: moved(tensor) for name, tensor in self.weights.items()},
        )
