"""Structures of ASE as batches of models."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray

from gfm_pipeline.apps.dataset import neighbour_list
from gfm_pipeline.core.contracts.extensions import suggestion
from gfm_pipeline.core.contracts.properties.attributes import BUILT_IN, Attribute
from gfm_pipeline.core.errors import DataError, ModelError
from gfm_pipeline.models.batch import Batch

COINCIDENT = 1e-3  # Angstrom: atoms closer than this coincide


def batch_of(
    structures: Sequence[Atoms],
    cutoff: float,
    dtype: torch.dtype,
    device: torch.device,
    assumed: Mapping[str, float] | None = None,
    attributes: Sequence[Attribute] = BUILT_IN,
) -> Batch:
    """Return structures, with their neighbours within ``cutoff`` (Angstrom), as a batch for models; head 0.

    ``assumed`` maps the name of an attribute to the value of structures that state none; otherwise these are NaN.

    Raises
    ------
    ModelError
        When atoms coincide, or an attribute is not a number or none of its categories.
    """
    ends: list[NDArray[np.int64]] = []
    shifts: list[NDArray[np.float64]] = []
    first = 0
    for atoms in structures:
        cell = np.asarray(atoms.cell.array, dtype=np.float64)
        try:
            src, dst, image = neighbour_list(atoms.positions, cell, atoms.pbc, cutoff)
        except DataError as error:
            raise ModelError(error.message, error.hint) from error
        shift = image @ cell
        distance = np.linalg.norm(atoms.positions[dst] - atoms.positions[src] + shift, axis=1)
        if len(distance) and distance.min() < COINCIDENT:
            pair = int(distance.argmin())
            raise ModelError(
                f"Atoms {int(src[pair])} and {int(dst[pair])} are at one place.", "Remove one, or correct the cell."
            )
        ends.append(np.stack([src, dst]) + first)
        shifts.append(shift)
        first += len(atoms)
    natoms = np.array([len(atoms) for atoms in structures])
    both = np.concatenate(ends, axis=1)

    def value_of(atoms: Atoms, attribute: Attribute) -> float:
        value = attribute_of(atoms, attribute)
        return (assumed or {}).get(attribute.name, math.nan) if value is None else value

    def tensor(values: NDArray[Any], kind: torch.dtype = torch.int64) -> torch.Tensor:
        return torch.as_tensor(values, dtype=kind, device=device)

    return Batch(
        z=tensor(np.concatenate([atoms.numbers for atoms in structures])),
        pos=tensor(np.concatenate([atoms.positions for atoms in structures]), dtype),
        edge_src=tensor(both[0]),
        edge_dst=tensor(both[1]),
        edge_shift=tensor(np.concatenate(shifts), dtype),
        graph=tensor(np.repeat(np.arange(len(natoms)), natoms)),
        natoms=tensor(natoms),
        dataset=tensor(np.zeros(len(natoms))),
        cell=tensor(np.stack([atoms.cell.array * atoms.pbc[:, None] for atoms in structures]), dtype),
        attributes={
            one.name: tensor(np.array([value_of(atoms, one) for atoms in structures]), dtype) for one in attributes
        },
    )


def attribute_of(atoms: Atoms, attribute: Attribute) -> float | None:
    """Return the value of an attribute in ``atoms.info``, of a category its position, or None.

    Raises
    ------
    ModelError
        When it is not a finite number, or none of the categories.
    """
    for key in attribute.names:
        if key in atoms.info:
            try:
                return attribute.number(atoms.info[key])
            except ValueError as error:
                raise ModelError(f"atoms.info[{key!r}] is {atoms.info[key]!r}, which {error}.", "Correct it.") from None
    return None


def info_of(given: Mapping[str, Any] | None, attributes: Sequence[Attribute]) -> dict[str, Any]:
    """Return ``atoms.info`` of structures that have these values of ``attributes`` by name.

    Raises
    ------
    ModelError
        For a name that is none of theirs, or a value that they cannot have.
    """
    known = {one.name: one for one in attributes}
    found = {}
    for name, value in (given or {}).items():
        if name not in known:
            raise ModelError(f"The models know no attribute {name!r} of structures.", suggestion(name, known))
        try:
            known[name].number(value)
        except ValueError as error:
            raise ModelError(f"The attribute {name} is {value!r}, which {error}.", "Correct it.") from None
        found[known[name].names[0]] = value
    return found
