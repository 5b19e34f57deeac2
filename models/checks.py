"""Checks of structures before prediction."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from gfm_pipeline.core.errors import ModelError
from gfm_pipeline.models.batch import Batch
from gfm_pipeline.models.layers import MAX_Z

COINCIDENT = 1e-3  # Angstrom; nearer atoms coincide, and the direction between them is rounding noise


def check_batch(batch: Batch, vec: Tensor, elements: Collection[int]) -> None:
    """Refuse a batch whose predictions would be meaningless; one host synchronisation for a valid batch.

    Parameters
    ----------
    batch
        The structures to predict.
    vec
        Its edge vectors [E, 3].
    elements
        Atomic numbers of the training data; empty: not known.

    Raises
    ------
    ModelError
        For positions or shifts that are not finite, coinciding atoms, and elements absent from the training data.
    """
    table = torch.zeros(MAX_Z + 1, dtype=torch.bool, device=batch.z.device)
    known = torch.tensor(sorted(elements) or range(1, MAX_Z + 1), device=batch.z.device)
    table = table.index_fill(0, known, True)
    strange = (batch.z < 1) | (batch.z > MAX_Z) | ~table.index_select(0, batch.z.clamp(0, MAX_Z))
    lost = ~batch.pos.isfinite().all(1)
    length = (vec * vec).sum(1)
    wrong = ~length.isfinite()
    near = length < COINCIDENT**2
    if not bool(torch.stack([strange.any(), lost.any(), wrong.any(), near.any()]).any()):
        return
    if bool(strange.any()):
        hint = f"It knows {_names(sorted(elements))}." if elements else f"Atomic numbers are 1 to {MAX_Z}."
        raise ModelError(f"The model was not trained on {_names(sorted(set(batch.z[strange].tolist())))}.", hint)
    if bool(lost.any()):
        raise ModelError(f"The position of atom {_where(batch, lost)} is not finite.", "Correct the structure.")
    edge = int((wrong | near).nonzero()[0])
    if bool(wrong.any()):
        raise ModelError(f"The shift of edge {edge} is not finite.", "Correct the cell.")
    one = torch.zeros_like(batch.z, dtype=torch.bool)
    one[batch.edge_src[edge]] = True
    other = int(batch.edge_dst[edge])
    raise ModelError(
        f"Atom {_where(batch, one)} and atom {other - _first(batch, other)} are at one place.",
        "Remove one, or correct the cell.",
    )


def _names(numbers: Sequence[int]) -> str:
    from ase.data import chemical_symbols  # training ranks need no ASE

    return ", ".join(chemical_symbols[z] if 1 <= z <= MAX_Z else f"atomic number {z}" for z in numbers)


def _first(batch: Batch, atom: int) -> int:
    """Return the first atom of an atom's structure."""
    return int((batch.graph < batch.graph[atom]).sum())


def _where(batch: Batch, chosen: Tensor) -> str:
    """Return the first chosen atom [N] by its number in its structure, and the structure if there are several."""
    atom = int(chosen.nonzero()[0])
    number = str(atom - _first(batch, atom))
    return number if batch.natoms.shape[0] == 1 else f"{number} of structure {int(batch.graph[atom])}"
