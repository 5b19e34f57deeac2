"""S2EF data of the Open Catalyst Project as published: ``N.extxyz`` and ``N.txt``, usually compressed with xz.

The layout: https://fair-chem.github.io/core/datasets/oc20.html (structure to energy and forces). Line k of the text
file is ``system id, frame, reference energy`` of frame k; the energy in the extxyz file is the total one of DFT.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from gfm_pipeline.apps.ingest.files.archive_members import InputFile, parts
from gfm_pipeline.apps.ingest.files.file_reader import FileReader, Frame, Parse
from gfm_pipeline.apps.ingest.labels.known_keys import taking
from gfm_pipeline.apps.ingest.readers.extxyz import parser as extxyz
from gfm_pipeline.core.contracts.options import OcpEnergy, OcpTextOptions
from gfm_pipeline.core.errors import DataError

_COMPRESSED = ("", ".xz", ".gz", ".bz2")


class OcpTextReader(FileReader):
    """Reads the pairs; a source names the extxyz files. Metadata: ``sid``, ``fid``, ``reference_energy``."""

    default_group = "sid"

    def frames(self, part: InputFile, options: OcpTextOptions) -> Iterator[Parse]:
        """Yield the frames of one pair."""
        with ExitStack() as stack:
            lines = stack.enter_context(_labels(part).text())
            structures = stack.enter_context(part.text())
            for parse in extxyz.frames(structures):
                yield partial(_frame, parse, next(lines, ""), options.energy)
            if next(lines, "").strip():
                yield _too_many


def _labels(part: InputFile) -> InputFile:
    """Return the path of the text file in the folder of an extxyz file."""
    if part.in_archive:
        raise DataError(f"{part.name}: pairs of files are not read from inside archives.", "Unpack the archive.")
    stem = part.file.parent / Path(part.base).stem
    for suffix in _COMPRESSED:
        path = stem.with_name(f"{stem.name}.txt{suffix}")
        if path.exists():
            return next(parts(str(path)))
    raise DataError(
        f"Beside {part.name} there is no {stem.name}.txt, compressed or not.",
        "Keep the pairs together; the reader ase reads extxyz files alone.",
    )


def _too_many() -> Frame:
    raise ValueError("the text file has more lines than the extxyz file has frames")


def _frame(parse: Parse, line: str, energy: OcpEnergy) -> Frame:
    fields = [field.strip() for field in line.split(",")]
    if len(fields) != 3:
        raise ValueError(f"the line of this frame in the text file is {line.strip()[:60]!r}, not three fields")
    about = {"sid": fields[0], "fid": fields[1], "reference_energy": float(fields[2])}
    frame = parse()
    label = frame.find("energy")  # what the reference energies belong to, and not the free energy
    label = frame.energy if label is None else label
    if energy is OcpEnergy.ADSORPTION and label is not None:
        label = label - about["reference_energy"]

    def find(name: str) -> Any:
        return about[name] if name in about else frame.find(name)

    keys = frame.keys if frame.keys is None else taking(frame.keys, "energy")
    return replace(frame, energy=label, find=find, keys=keys)
