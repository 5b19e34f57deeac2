"""The one typed batch every model and loss speaks."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

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
    energy
        Label minus reference energies [G]; None when predicting.
    forces
        Labels [N, 3]; None when predicting.
    """

    z: Tensor
    pos: Tensor
    edge_src: Tensor
    edge_dst: Tensor
    edge_shift: Tensor
    graph: Tensor
    natoms: Tensor
    dataset: Tensor
    energy: Tensor | None = None
    forces: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """Return this batch on ``device``; itself when it is there already."""
        if self.z.device == device:
            return self
        moved = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{name: t.to(device) for name, t in moved.items() if t is not None})
