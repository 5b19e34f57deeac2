"""Existing ``.bp`` files in HydraGNN's layout as a source; `gfm_pipeline.apps.dataset.store.bp` describes it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from math import isnan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gfm_pipeline.apps.dataset.store.bp import BpFile, read_columns
from gfm_pipeline.apps.dataset.store.columns import Columns
from gfm_pipeline.apps.dataset.store.write import N_COEFFICIENTS, REFERENCES
from gfm_pipeline.apps.ingest.files.archive_members import InputFile
from gfm_pipeline.apps.ingest.files.file_reader import FileReader, Frame, Parse
from gfm_pipeline.apps.ingest.labels.known_keys import KeySets
from gfm_pipeline.apps.ingest.records import reduced_formula
from gfm_pipeline.core.contracts.data import Split
from gfm_pipeline.core.contracts.layout import CHUNK
from gfm_pipeline.core.contracts.options import HydragnnOptions
from gfm_pipeline.core.contracts.targets import ENERGY, FORCES
from gfm_pipeline.core.errors import IntegrityError

_KEY_SETS = KeySets()


class HydragnnReader(FileReader):
    """Reads the three labels of each file one after the other, in windows; a window that is damaged costs itself.

    The file's own groups are kept where it has them, and charge and spin where ``graph_attr`` says a multiplicity.
    """

    default_group = "group"

    def frames(self, part: InputFile, options: HydragnnOptions) -> Iterator[Parse]:
        """Yield the samples of a file."""
        with BpFile(part.path()) as file:
            subtracted = _coefficients(file) if options.add_references else None
            for label in file.labels():
                size = _size(file, label)
                for first in range(0, size, CHUNK):
                    window = _Window(file, Split(label), first, min(CHUNK, size - first), subtracted)
                    for index in range(window.n):
                        yield partial(window.frame, index)

    def length(self, part: InputFile, options: HydragnnOptions) -> int | None:  # noqa: ARG002
        """Return the number of samples the file declares."""
        with BpFile(part.path()) as file:
            return sum(_size(file, label) for label in file.labels())


def _size(file: BpFile, label: str) -> int:
    """Return how many samples a label has; a file may claim any number, and is held to what it has of each key."""
    claimed = int(np.asarray(file.attribute(f"{label}/ndata")).ravel()[0])
    for key in file.keys(label):
        held = int(np.prod(file.variable(f"{label}/{key}/variable_count").Shape()))
        if not 0 <= claimed <= held:
            raise IntegrityError(f"{file.path} claims {claimed:,} samples of {label}, and has {held:,} of {key}.")
    return claimed


def _coefficients(file: BpFile) -> NDArray[np.float64]:
    """Return the energies of the elements that were subtracted [118], eV."""
    found = np.asarray(file.attribute(REFERENCES), dtype=np.float64).ravel()
    if found.shape != (N_COEFFICIENTS,) or not np.isfinite(found).all():
        raise IntegrityError(f"{REFERENCES} of {file.path} is not {N_COEFFICIENTS} energies of elements.")
    return found


class _Window:
    """Samples that are read together, when the first of them is."""

    def __init__(self, file: BpFile, label: Split, first: int, n: int, subtracted: NDArray[np.float64] | None) -> None:
        self._file, self._label, self._first, self.n, self._subtracted = file, label, first, n, subtracted
        self._read: Columns | IntegrityError | None = None

    def _columns(self) -> Columns:
        if self._read is None:
            try:
                self._read = read_columns(self._file, self._label, self._first, self.n)
            except IntegrityError as error:
                self._read = error
        if isinstance(self._read, IntegrityError):
            raise self._read
        return self._read

    def frame(self, index: int) -> Frame:
        """Return one sample."""
        columns = self._columns()
        keys = self._file.keys(self._label)
        atoms = slice(int(columns.offsets[index]), int(columns.offsets[index + 1]))
        forces = columns.forces[atoms]
        charge, spin = columns.graph_attr[index].tolist()
        numbers = columns.numbers[atoms]
        about: dict[str, Any] = {"group": int(columns.group[index]) if "group" in keys else reduced_formula(numbers)}
        ours = isnan(charge) or isnan(
            spin
        )  # NaN stands for what is not known; of others, and of earlier files, zeros do
        if (ours and not isnan(charge)) or (not ours and (spin or charge)):
            about["charge"] = charge
        if spin and not isnan(spin):
            about["spin"] = spin
        energy = float(columns.energy[index])
        if self._subtracted is not None:
            energy += float(self._subtracted[numbers.astype(np.int64) - 1].sum())
        labels = {name: array[index] for name, array in columns.graph_labels.items() if name != ENERGY.name}
        labels |= {name: array[atoms] for name, array in columns.atom_labels.items() if name != FORCES.name}
        about |= {name: values for name, values in labels.items() if not np.isnan(values).all()}
        about |= {f"{name}_weight": float(array[index]) for name, array in columns.weights.items()}
        return Frame(
            numbers=numbers,
            pos=columns.pos[atoms],
            cell=columns.cell[index],
            pbc=columns.pbc[index],
            energy=energy,
            forces=None if np.isnan(forces).all() else forces,
            find={**about, "split": str(self._label)}.get,
            keys=_KEY_SETS.of({**about, "energy": energy, "forces": forces}, len(numbers), "energy", "forces"),
        )
