"""JSON with pymatgen structures: lists of labelled records, trees of them, and ``ComputedStructureEntry`` lists."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from monty.io import zopen
from pymatgen.core import DummySpecies, Molecule, Structure

from gfm_pipeline.apps.contracts.data import BadRecord, SourceSettings
from gfm_pipeline.apps.ingest.records import PARSE_ERRORS, Record, deal, group_name, mine, unreadable

# Total energies only: a corrected energy is not what the forces are the gradient of.
_ENERGY_PATHS = ("outputs.energy", "energy", "data.energy", "uncorrected_total_energy")
_FORCE_PATHS = ("outputs.forces", "forces", "data.forces", "force", "structure.site_properties.forces")


class PymatgenJsonReader:
    """Reads JSON and JSON-lines files, compressed or not."""

    @property
    def converted(self) -> tuple[str, ...]:
        """None."""
        return ()

    def count(self, source: SourceSettings) -> int | None:  # noqa: ARG002
        """Return None: the files would have to be read."""
        return None

    def read(self, source: SourceSettings, shard: int, n_shards: int, seed: int) -> Iterator[Record | BadRecord]:  # noqa: ARG002
        """Yield the records of one shard; ``seed`` is not used."""
        files, records = deal(source.files, shard, n_shards)
        for file_index, file in files:
            index = 0
            try:
                for entry in _entries(file):
                    if mine(index, records):
                        yield _parse(entry, source, file, file_index, index)
                    index += 1
            except (json.JSONDecodeError, UnicodeDecodeError, EOFError) as error:
                if mine(index, records):
                    yield unreadable(source, file, index, error)


def _entries(file: str) -> Iterator[Any]:
    """Yield everything in a file that has a structure, in file order."""
    name = file.removesuffix(".gz").removesuffix(".bz2").removesuffix(".xz")
    with zopen(file, "rt", encoding="utf-8") as stream:
        if name.endswith(".jsonl"):
            for line in stream:
                if line.strip():
                    yield json.loads(line)
        else:
            yield from _walk(json.load(stream))


def _walk(node: Any) -> Iterator[Any]:
    """Yield the records of nested lists and dictionaries (such as material -> frame -> record)."""
    if isinstance(node, Mapping):
        if "structure" in node or not any(isinstance(child, (Mapping, list)) for child in node.values()):
            yield node
        else:
            for child in node.values():
                yield from _walk(child)
    elif isinstance(node, list):
        for child in node:
            yield from _walk(child)
    else:
        yield node


def _look_up(entry: Any, path: str) -> Any:
    """Return the value at a dotted path, or None; a list of dictionaries is searched in every element."""
    node = entry
    for part in path.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return None
        node = node[part]
    return node


def _first(entry: Any, given: str | None, paths: tuple[str, ...]) -> Any:
    for path in paths if given is None else (given,):
        value = _look_up(entry, path)
        if value is not None:
            return value
    return None


def _parse(entry: Any, source: SourceSettings, file: str, file_index: int, index: int) -> Record | BadRecord:
    try:
        plain = entry["structure"]
        is_molecule = plain.get("@class") == "Molecule"
        structure: Any = Molecule.from_dict(plain) if is_molecule else Structure.from_dict(plain)
        if not structure.is_ordered:
            return BadRecord(source.name, file, index, "disordered structure")
        # The Z of a dummy species is a hash.
        numbers = np.array([0 if isinstance(s.specie, DummySpecies) else s.specie.Z for s in structure])
        energy = _first(entry, source.energy_key, _ENERGY_PATHS)
        forces = _first(entry, source.forces_key, _FORCE_PATHS)
        if forces is None:
            forces = structure.site_properties.get(source.forces_key or "forces")
        return Record(
            numbers=numbers,
            pos=np.asarray(structure.cart_coords, dtype=np.float64).reshape(-1, 3),
            forces=None if forces is None else np.asarray(forces, dtype=np.float64),
            energy=None if energy is None else float(energy),
            cell=np.zeros((3, 3)) if is_molecule else np.asarray(structure.lattice.matrix),
            pbc=np.zeros(3, dtype=bool) if is_molecule else np.asarray(structure.lattice.pbc, dtype=bool),
            group=group_name(source.group_key, lambda key: _look_up(entry, key), numbers, file, index),
            file=file,
            file_index=file_index,
            index=index,
        )
    except PARSE_ERRORS as error:
        return unreadable(source, file, index, error)
