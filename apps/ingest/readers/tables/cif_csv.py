"""A CSV table of labels, and a CIF file for each row or the CIF text in a column.

Layouts in use: ``id_prop.csv`` beside ``ID.cif`` (https://github.com/txie-93/cgcnn#define-a-customized-dataset; no
header: set ``columns``), and tables with a column of CIF text (https://github.com/txie-93/cdvae, ``data/mp_20``).
CIF: https://www.iucr.org/resources/cif. The label is the column ``energy`` unless the source names another; such
tables have no forces.
"""

from __future__ import annotations

import csv
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from pymatgen.core import Structure

from gfm_pipeline.apps.ingest.files.archive_members import InputFile
from gfm_pipeline.apps.ingest.files.file_reader import FileReader, Frame, Parse, RefusedError
from gfm_pipeline.apps.ingest.labels.known_keys import KeySets
from gfm_pipeline.core.contracts.options import CifCsvOptions
from gfm_pipeline.core.errors import DataError
from gfm_pipeline.core.special_files import special_kind

_LONGEST = 10_000_000  # characters of a field; a CIF of thousands of atoms has about one


_KEY_SETS = KeySets()


class CifCsvReader(FileReader):
    """Reads one record per row; metadata are the columns."""

    def frames(self, part: InputFile, options: CifCsvOptions) -> Iterator[Parse]:
        """Yield the rows of a table."""
        if part.in_archive:
            raise DataError(f"{part.name}: tables are not read from inside archives.", "Unpack the archive.")
        csv.field_size_limit(_LONGEST)
        with part.text() as lines:
            source = _CsvLines(lines)
            columns = options.columns or tuple(next(csv.reader(source, strict=True), ()))
            while True:
                source.begin()
                try:
                    row = next(csv.DictReader(source, fieldnames=columns, strict=True), None)
                except csv.Error as error:  # of an open quotation, which takes what follows with it
                    source.only_the_first()
                    yield partial(_refuse, f"the row cannot be read: {error}")
                    continue
                if row is None:
                    return
                yield partial(_parse, row, part.file.parent, options)


class _CsvLines:
    """Lines of a table, of which those of a row that cannot be read are given again, all but the first."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self._taken: list[str] = []
        self._again: list[str] = []

    def __iter__(self) -> _CsvLines:
        return self

    def __next__(self) -> str:
        line = self._again.pop() if self._again else next(self._lines)
        self._taken.append(line)
        return line

    def begin(self) -> None:
        """Say that a row begins here."""
        self._taken = []

    def only_the_first(self) -> None:
        """Give all lines since `begin` again, but for the first."""
        self._again += self._taken[:0:-1]


def _refuse(reason: str) -> Frame:
    raise ValueError(reason)


def _leaves(value: str) -> bool:
    """Return whether a value of the table, as a part of a path, leads elsewhere."""
    return value.startswith("/") or ".." in value.split("/")


def _parse(row: dict[str, str | None], folder: Path, options: CifCsvOptions) -> Frame:
    if None in row or None in row.values():
        raise ValueError("the row has more or fewer fields than the table has columns")
    if options.cif is not None:
        text = row[options.cif] or ""
    else:
        strange = next((v for v in row.values() if v and _leaves(v) and v in options.path.format(**row)), None)
        if strange is not None:
            raise RefusedError(f"{strange[:100]!r} leads out of the folder of the table: it is not followed")
        path = folder / options.path.format(**row)
        kind = special_kind(path)
        if kind is not None:
            raise RefusedError(f"{path} is {kind} and no file")
        if not path.exists():
            raise ValueError(f"there is no file {path}")
        text = path.read_text(encoding="utf-8", errors="replace")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pymatgen warns of coordinates it rounds
        structure = Structure.from_str(text, fmt="cif")
    if not structure.is_ordered:
        raise RefusedError("disordered structure")

    def find(name: str) -> str | float | None:
        value = row.get(name)
        try:
            return float(value) if value else None
        except ValueError:
            return value

    return Frame(
        numbers=np.array([site.specie.Z for site in structure]),
        pos=np.asarray(structure.cart_coords),
        cell=np.asarray(structure.lattice.matrix),
        pbc=np.ones(3, dtype=bool),
        energy=find("energy"),
        find=find,
        keys=_KEY_SETS.of({name: find(name) for name in row if name != options.cif}, len(structure), "energy", None),
    )
