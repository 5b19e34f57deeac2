"""Fingerprints of records: equal for repetitions, and 64 bits long, enough to compare a billion records."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gfm_pipeline.apps.ingest.records import Record
from gfm_pipeline.core.contracts.data import Duplicates

POSITION_STEP = 1e-3  # Angstrom
ENERGY_STEP = 1e-4  # eV
_MASK = (1 << 64) - 1


def _hash64(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def group_id(name: str) -> int:
    """Return the 64-bit number of a group's name."""
    return _hash64(name.encode())


def fingerprint(record: Record, how: Duplicates) -> int:
    """Return 64 bits of species, positions, cell, periodic directions and energy of a record in eV and Angstrom.

    ``EXACT`` uses all bits. ``ROUNDED`` rounds to 0.001 Angstrom and 0.0001 eV and sorts the atoms, so that copies with
    fewer digits or permuted atoms are found. A copy with a value beyond the edge of such a step is not found.
    """
    numbers = np.asarray(record.numbers, dtype=np.int16)
    pos, cell = np.asarray(record.pos, dtype=np.float64), np.asarray(record.cell, dtype=np.float64)
    energy = np.array([0.0 if record.energy is None else record.energy])
    if how is Duplicates.ROUNDED:
        steps = np.rint(pos / POSITION_STEP).astype(np.int64)
        order = np.lexsort((steps[:, 2], steps[:, 1], steps[:, 0], numbers))
        cell_steps, energy_steps = np.rint(cell / POSITION_STEP), np.rint(energy / ENERGY_STEP)
        parts = [numbers[order], steps[order], cell_steps.astype(np.int64), energy_steps.astype(np.int64)]
    else:
        parts = [numbers, pos + 0.0, cell + 0.0, energy + 0.0]  # -0.0 + 0.0 is 0.0
    pbc = np.asarray(record.pbc, dtype=np.uint8)
    return _hash64(b"".join(np.ascontiguousarray(part).tobytes() for part in (*parts, pbc)))


def order_keys(seed: int, *place: NDArray[Any]) -> NDArray[np.uint64]:
    """Return a random 64-bit number for each record [G], uint64, which determines the shuffled order.

    It depends on the seed and on the origin of the record (``place``: file, member, number, each [G]), not on the
    shards of the source. The mixing is SplitMix64 (G. Steele, D. Lea, C. Flood, OOPSLA 2014), applied to the seed and
    each number in turn.
    """
    with np.errstate(over="ignore"):
        state = _mix(np.full(len(place[0]), seed & _MASK, dtype=np.uint64))
        for number in place:
            state = _mix(state ^ np.asarray(number).astype(np.uint64))
    return state


def mixed(*numbers: NDArray[Any]) -> NDArray[np.uint64]:
    """Hash whole numbers, each [G], to random 64-bit numbers [G], equal in every program: see `order_keys`."""
    return order_keys(0, *numbers)


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
