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

from gfm_pipeline.apps.ingest.files.archive_members import Part
from gfm_pipeline.apps.ingest.files.file_reader import FileReader, Frame, Parse, RefusedError
from gfm_pipeline.core.contracts.options import CifCsvOptions
from gfm_pipeline.core.errors import DataError

_LONGEST = 10_000_000  # characters of a field; a CIF of thousands of atoms has about one


class CifCsvReader(FileReader):
    """Reads one record a row; metadata are the columns."""

    errors = (csv.Error,)

    def frames(self, part: Part, options: CifCsvOptions) -> Iterator[Parse]:
        """Yield the rows of a table."""
        if part.in_archive:
            raise DataError(f"{part.name}: tables are not read from inside archives.", "Unpack the archive.")
        csv.field_size_limit(_LONGEST)
        with part.text() as lines:
            for row in csv.DictReader(lines, fieldnames=options.columns or None, strict=True):
                yield partial(_parse, row, part.file.parent, options)


def _parse(row: dict[str, str | None], folder: Path, options: CifCsvOptions) -> Frame:
    if None in row or None in row.values():
        raise ValueError("the row has more or fewer fields than the table has columns")
    if options.cif is not None:
        text = row[options.cif] or ""
    else:
        path = folder / options.path.format(**row)
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
    )
