"""JSON with pymatgen structures: lists of labelled records, trees of them, and ``ComputedStructureEntry`` lists.

Layouts in use: MPtrj and CHGNet (material, frame, record with ``structure``, ``uncorrected_total_energy`` and
``force``; https://figshare.com/articles/dataset/23713842), Alexandria (``entries`` of ``ComputedStructureEntry``;
https://alexandria.icams.rub.de), mlearn (a list of ``structure`` and ``outputs``;
https://github.com/materialsvirtuallab/mlearn). Files are streamed: memory is that of one record.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
from pymatgen.core import DummySpecies, Molecule, Structure

from gfm_pipeline.apps.ingest.files import json_orients, json_stream
from gfm_pipeline.apps.ingest.files.archive_members import InputFile
from gfm_pipeline.apps.ingest.files.file_reader import FileReader, Frame, Parse, RefusedError
from gfm_pipeline.apps.ingest.files.markers import unmarked
from gfm_pipeline.apps.ingest.labels.known_keys import KeySet, KeySets
from gfm_pipeline.core.contracts.options import PymatgenJsonOptions

# Total energies only: a corrected energy is not what the forces are the gradient of.
_ENERGY_PATHS = ("outputs.energy", "energy", "data.energy", "uncorrected_total_energy")
_FORCE_PATHS = ("outputs.forces", "forces", "data.forces", "force", "structure.site_properties.forces")

_PROBE_BYTES = json_orients.PROBE_BYTES  # bytes that tell lines from one list or tree
_COLUMNS = frozenset(
    ("structure", "energy", "forces", "force", "stress", "outputs", "data", "uncorrected_total_energy")
)


_KEY_SETS = KeySets()
_STRUCTURE = frozenset({"structure", "outputs", "data", "@module", "@class", "@version"})


class PymatgenJsonReader(FileReader):
    """Reads JSON and JSON-lines files, compressed or not."""

    def frames(self, part: InputFile, options: PymatgenJsonOptions) -> Iterator[Parse]:  # noqa: ARG002
        """Yield everything in a file that has a structure, in file order."""
        with part.binary() as stream:
            begin = stream.read(_PROBE_BYTES)
            text = json_stream.Joined(begin, stream)
            if part.suffix in (".jsonl", ".ndjson") or json_stream.are_lines(begin):
                for line in text.lines():
                    if line.strip():
                        yield partial(_parse, partial(json_stream.loads, line))
            elif json_orients.is_turned(begin, _COLUMNS):
                for row in json_orients.turned(json_stream.loads(text.read()), _COLUMNS):
                    yield partial(_parse, row)
            else:
                for record in json_stream.records(text, "structure"):
                    yield partial(_parse, record)


def _lookup(entry: Any, path: str) -> Any:
    """Return the value at a dotted path, or None."""
    node = entry
    for part in path.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return None
        node = node[part]
    return node


def _first(entry: Any, paths: tuple[str, ...]) -> Any:
    return next((value for value in (_lookup(entry, path) for path in paths) if value is not None), None)


def _parse(load: Callable[[], Any]) -> Frame:
    entry = load()
    is_molecule = entry["structure"].get("@class") == "Molecule"
    plain = unmarked(entry["structure"])
    structure: Any = Molecule.from_dict(plain) if is_molecule else Structure.from_dict(plain)
    if not structure.is_ordered:
        raise RefusedError("disordered structure")

    # A molecule says its charge and spin, a structure in JSON always some charge: only one that is not 0 is meant.
    stated = {key: plain.get(key) for key in ("charge", "spin_multiplicity") if is_molecule or plain.get(key)}

    def find(name: str) -> Any:
        value = _lookup(entry, name)
        value = stated.get(name) if value is None else value
        return structure.site_properties.get(name) if value is None else value

    forces = _first(entry, _FORCE_PATHS)
    return Frame(
        # The Z of a dummy species is a hash.
        numbers=np.array([0 if isinstance(s.specie, DummySpecies) else s.specie.Z for s in structure]),
        pos=np.asarray(structure.cart_coords, dtype=np.float64).reshape(-1, 3),
        cell=np.zeros((3, 3)) if is_molecule else np.asarray(structure.lattice.matrix),
        pbc=np.zeros(3, dtype=bool) if is_molecule else np.asarray(structure.lattice.pbc, dtype=bool),
        energy=_first(entry, _ENERGY_PATHS),
        forces=structure.site_properties.get("forces") if forces is None else forces,
        find=find,
        keys=_keys(entry, structure, find),
    )


def _keys(entry: Any, structure: Any, find: Callable[[str], Any]) -> KeySet:
    """Return the keys of a record: its own, those of its outputs and data, and properties of its sites."""
    names = [name for name in entry if name not in _STRUCTURE]
    for group in ("outputs", "data"):
        inside = entry.get(group)
        names += [f"{group}.{name}" for name in inside] if isinstance(inside, Mapping) else []
    names += [name for name in structure.site_properties if name not in names]
    values = {name: find(name) for name in names}
    energy = next((path for path in _ENERGY_PATHS if _lookup(entry, path) is not None), None)
    forces = next((path for path in _FORCE_PATHS if _lookup(entry, path) is not None), None)
    site_forces = "forces" if "forces" in structure.site_properties else None
    return _KEY_SETS.of(
        values, len(structure), energy, site_forces if forces is None else forces.rpartition("site_properties.")[2]
    )
