"""Structures of ASE as batches of models."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Neighbours:
    """The edges of one structure: both directions of every pair of atoms.

    Attributes
    ----------
    src, dst
        Atoms [E]: edge k goes from ``src[k]`` to ``dst[k]``.
    shift
        Displacement of the image of ``dst`` [E, 3], Angstrom, as of `Batch`.
    """

    src: NDArray[np.int64]
    dst: NDArray[np.int64]
    shift: NDArray[np.float64]

    @classmethod
    def of(cls, atoms: Atoms, cutoff: float) -> Neighbours:
        """List the neighbours of all atoms within ``cutoff`` (Angstrom).

        Raises
        ------
        ModelError
            When there is no list, such as of a cell without volume.
        """
        cell = np.asarray(atoms.cell.array, dtype=np.float64)
        try:
            src, dst, image = neighbour_list(atoms.positions, cell, atoms.pbc, cutoff)
        except DataError as error:
            raise ModelError(error.message, error.hint) from error
        return cls(src, dst, image @ cell)

    def lengths(self, positions: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the lengths of the edges [E], Angstrom.

        Raises
        ------
        ModelError
            When atoms coincide.
        """
        found = np.linalg.norm(positions[self.dst] - positions[self.src] + self.shift, axis=1)
        if len(found) and found.min() < COINCIDENT:
            pair = int(found.argmin())
            raise ModelError(
                f"Atoms {int(self.src[pair])} and {int(self.dst[pair])} are at one place.",
                "Remove one, or correct the cell.",
            )
        return np.asarray(found)

    def some(self, which: NDArray[np.bool_]) -> Neighbours:
        """Return the edges of a mask [E]."""
        return Neighbours(self.src[which], self.dst[which], self.shift[which])


def batch_of(
    structures: Sequence[Atoms],
    cutoff: float,
    dtype: torch.dtype,
    device: torch.device,
    assumed: Mapping[str, float] | None = None,
    attributes: Sequence[Attribute] = BUILT_IN,
    neighbours: Sequence[Neighbours] | None = None,
) -> Batch:
    """Return structures, with their neighbours within ``cutoff`` (Angstrom), as a batch for models; head 0.

    ``assumed`` maps the name of an attribute to the value of structures that state none; otherwise these are NaN.
    ``neighbours`` are the edges of each structure, if they are listed already.

    Raises
    ------
    ModelError
        When atoms coincide, or an attribute is not a number or none of its categories.
    """
    ends: list[NDArray[np.int64]] = []
    shifts: list[NDArray[np.float64]] = []
    first = 0
    for number, atoms in enumerate(structures):
        edges = Neighbours.of(atoms, cutoff) if neighbours is None else neighbours[number]
        edges.lengths(atoms.positions)  # refuses atoms that coincide
        ends.append(np.stack([edges.src, edges.dst]) + first)
        shifts.append(edges.shift)
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


def near_edges(
    structures: Sequence[Atoms], neighbours: Sequence[Neighbours] | None, cutoff: float
) -> tuple[list[Neighbours] | None, NDArray[np.bool_]]:
    """Return the given edges within a cutoff, and which of all edges [E] they are; None to list them anew."""
    if neighbours is None:
        return None, np.zeros(0, dtype=bool)
    both = list(zip(structures, neighbours, strict=True))
    masks = [edges.lengths(atoms.positions) < cutoff for atoms, edges in both]
    return [edges.some(mask) for (_, edges), mask in zip(both, masks, strict=True)], np.concatenate(masks)


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
