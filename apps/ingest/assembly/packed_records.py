"""Checked records as flat arrays, the content of the parts of a shard, each one ``.npz`` without pickles."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gfm_pipeline.apps.dataset.neighbors.degrees import degrees_of
from gfm_pipeline.apps.dataset.store.columns import flat_ranges
from gfm_pipeline.apps.ingest.assembly.given_splits import with_split
from gfm_pipeline.apps.ingest.checks.fingerprints import fingerprint, group_id
from gfm_pipeline.apps.ingest.checks.label_shapes import missing_label
from gfm_pipeline.apps.ingest.labels.known_keys import KeyKind
from gfm_pipeline.apps.ingest.records import Record
from gfm_pipeline.core.contracts.data import Duplicates
from gfm_pipeline.core.contracts.targets import Level, Target
from gfm_pipeline.core.errors import IntegrityError

PER_ATOM = frozenset({"numbers", "pos", "forces", "degrees"})
# attributes that hold an array for each target; ``NAME.TARGET`` in a file
_LABELS = ("graph_labels", "atom_labels", "weights")


@dataclass(frozen=True)
class Shard:
    """G records with N atoms, eV and Angstrom, float64.

    ``groups`` are names [G] and ``group_id`` their 64-bit numbers. ``file_index``, ``member`` and ``index`` [G] are the
    origin of a record (path of the source, member of an archive, position in it). ``config_type`` [G] is the kind of
    configuration that a record states, '' for none. ``fingerprint`` [G] is equal for
    repetitions (0 if repetitions are kept). ``charge`` and ``spin`` [G] are NaN when not known. ``degrees`` [N, R] are
    neighbours within each of `gfm_pipeline.apps.dataset.neighbors.degrees.RADII`: counting them is most of the work of
    ingest, and shards are made beside each other. ``graph_labels`` [G, ...] and ``atom_labels`` [N, ...] are those of
    targets beside energy and forces, NaN where a record has none. ``weights`` [G] are those of the labels of a target,
    in parts in which one differs from 1.
    """

    numbers: NDArray[np.uint8]
    pos: NDArray[np.float64]
    forces: NDArray[np.float64]
    energy: NDArray[np.float64]
    cell: NDArray[np.float64]
    pbc: NDArray[np.bool_]
    natoms: NDArray[np.int64]
    groups: NDArray[np.str_]
    group_id: NDArray[np.uint64]
    file_index: NDArray[np.int64]
    member: NDArray[np.int64]
    index: NDArray[np.int64]
    fingerprint: NDArray[np.uint64]
    charge: NDArray[np.float32]
    spin: NDArray[np.float32]
    degrees: NDArray[np.uint16]
    config_type: NDArray[np.str_]
    graph_labels: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    atom_labels: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    weights: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.natoms)

    @classmethod
    def load(cls, path: Path) -> Shard:
        """Read one part; count degrees if the part is from a version that did not store them."""
        with _part(path) as stored:
            found: dict[str, Any] = {name: stored[name] for name in _COLUMNS if name in stored.files}
            for name in _LABELS:
                keys = [key for key in stored.files if key.startswith(f"{name}.")]
                found[name] = {key.removeprefix(f"{name}."): stored[key] for key in keys}
            missing = set(_COLUMNS) - set(found) - {"degrees", "config_type"}
            if missing:
                raise KeyError(min(missing))
        if "degrees" not in found:
            found["degrees"] = degrees_of(*(found[name] for name in ("pos", "cell", "pbc", "natoms")))
        found.setdefault("config_type", np.full(len(found["natoms"]), ""))  # in parts of earlier versions
        return cls(**found)

    def labels_of(self, target: Target) -> NDArray[np.float64]:
        """Return the labels of a target [G, ...] or [N, ...]; all NaN if the part has none."""
        found = (self.graph_labels if target.level is Level.GRAPH else self.atom_labels).get(target.name)
        rows = len(self) if target.level is Level.GRAPH else len(self.numbers)
        return np.full((rows, *target.shape), np.nan) if found is None else found

    def weights_of(self, target: str) -> NDArray[np.float64]:
        """Return the weights of the labels of a target [G]."""
        found = self.weights.get(target)
        return np.ones(len(self)) if found is None else found

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return all arrays by their names in a file."""
        labels = {f"{name}.{target}": a for name in _LABELS for target, a in getattr(self, name).items()}
        return {name: getattr(self, name) for name in _COLUMNS} | labels

    def mapped(self, change: Callable[[NDArray[Any], bool], NDArray[Any]]) -> Shard:
        """Apply ``change`` to each array; its second argument is whether a row is an atom."""
        return Shard(
            **{name: change(getattr(self, name), name in PER_ATOM) for name in _COLUMNS},
            graph_labels={name: change(array, False) for name, array in self.graph_labels.items()},
            atom_labels={name: change(array, True) for name, array in self.atom_labels.items()},
            weights={name: change(array, False) for name, array in self.weights.items()},
        )


_COLUMNS = tuple(name for name in Shard.__dataclass_fields__ if name not in _LABELS)


def pack(
    records: list[Record],
    duplicates: Duplicates = Duplicates.KEEP,
    splits_given: bool = False,
    targets: Sequence[Target] = (),
) -> Shard:
    """Join checked records (energy and group present); missing forces and labels of targets are NaN.

    With given splits, ``group_id`` contains them, and repetitions are detected even if they are kept.
    """

    def number(record: Record) -> int:
        group = group_id(str(record.group))
        return with_split(group, record.split) if splits_given else group

    def atoms(rows: list[Any]) -> NDArray[np.float64]:
        return np.concatenate([np.zeros((0, 3)), *rows]).astype(np.float64)

    kept = duplicates is Duplicates.KEEP and not splits_given
    pos = atoms([r.pos for r in records])
    cell = np.array([r.cell for r in records], dtype=np.float64).reshape(-1, 3, 3)
    pbc = np.array([r.pbc for r in records], dtype=np.bool_).reshape(-1, 3)
    natoms = np.array([len(r.numbers) for r in records], dtype=np.int64)
    weighted = sorted({name for record in records for name in record.weights})
    return Shard(
        numbers=np.concatenate([np.zeros(0, np.uint8), *[r.numbers for r in records]]).astype(np.uint8),
        pos=pos,
        forces=atoms([np.full((len(r.numbers), 3), np.nan) if r.forces is None else r.forces for r in records]),
        energy=np.array([r.energy for r in records], dtype=np.float64),
        cell=cell,
        pbc=pbc,
        natoms=natoms,
        groups=np.array([str(r.group) for r in records], dtype=np.str_),
        group_id=np.array([number(r) for r in records], dtype=np.uint64),
        file_index=np.array([r.file_index for r in records], dtype=np.int64),
        member=np.array([r.member for r in records], dtype=np.int64),
        index=np.array([r.index for r in records], dtype=np.int64),
        fingerprint=np.array([0 if kept else fingerprint(r, duplicates) for r in records], dtype=np.uint64),
        charge=np.array([np.nan if r.charge is None else r.charge for r in records], dtype=np.float32),
        spin=np.array([np.nan if r.spin is None else r.spin for r in records], dtype=np.float32),
        degrees=degrees_of(pos, cell, pbc, natoms),
        config_type=np.array([_config_type(r) for r in records], dtype=np.str_),
        graph_labels={t.name: np.stack(_labels(records, t)) for t in targets if t.level is Level.GRAPH and records},
        atom_labels={t.name: np.concatenate(_labels(records, t)) for t in targets if t.level is Level.ATOM and records},
        weights={name: np.array([r.weights.get(name, 1.0) for r in records]) for name in weighted},
    )


def _config_type(record: Record) -> str:
    return next((value for _, kind, value in record.stated_keys if kind is KeyKind.CONFIG_TYPE), "")


def _labels(records: list[Record], target: Target) -> list[NDArray[np.float64]]:
    found = [record.labels.get(target.name) for record in records]
    return [
        missing_label(target, len(record.numbers)) if values is None else values
        for record, values in zip(records, found, strict=True)
    ]


@contextmanager
def _part(path: Path) -> Iterator[Any]:
    """Open the arrays of a part of a shard after a check by `open_shard`."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            yield arrays
    except (OSError, KeyError, ValueError) as error:
        raise IntegrityError(f"{path} is not a part of a shard: {error}.") from error


def load_part(path: Path, *names: str) -> list[NDArray[Any]]:
    """Read some arrays of a part of a shard.

    Raises
    ------
    IntegrityError
        When it cannot be read.
    """
    with _part(path) as arrays:
        return [arrays[name] for name in names]


def select(shard: Shard, order: NDArray[np.int64]) -> Shard:
    """Return the records ``order`` of a shard, in that order."""
    starts = np.cumsum(shard.natoms) - shard.natoms
    atoms = flat_ranges(starts[order], shard.natoms[order])
    return shard.mapped(lambda array, per_atom: array[atoms if per_atom else order])


def concatenate(shards: list[Shard]) -> Shard:
    """Join shards into one, in the order of the source, independent of the number of shards."""
    arrays: dict[str, Any] = {name: np.concatenate([getattr(shard, name) for shard in shards]) for name in _COLUMNS}
    weighted = sorted({name for shard in shards for name in shard.weights})
    arrays["weights"] = {name: np.concatenate([shard.weights_of(name) for shard in shards]) for name in weighted}
    for name in ("graph_labels", "atom_labels"):
        of_targets = [getattr(shard, name) for shard in shards]
        arrays[name] = {key: np.concatenate([labels[key] for labels in of_targets]) for key in of_targets[0]}
    joined = Shard(**arrays)
    return select(joined, np.lexsort((joined.index, joined.member, joined.file_index)))
