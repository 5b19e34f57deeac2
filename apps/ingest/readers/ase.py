"""Everything ASE reads: extended XYZ frame by frame, databases row by row, trajectories, and any other format."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from ase.db import connect
from ase.io import iread
from ase.io.formats import UnknownFileTypeError, ioformats
from ase.io.trajectory import Trajectory

from gfm_pipeline.apps.ingest.files.archive_members import Part
from gfm_pipeline.apps.ingest.files.file_reader import FileReader, Frame, Parse
from gfm_pipeline.apps.ingest.readers import extxyz
from gfm_pipeline.apps.ingest.readers.aselmdb import AseLmdb
from gfm_pipeline.apps.ingest.readers.extxyz import atoms_frame
from gfm_pipeline.core.contracts.options import AseOptions
from gfm_pipeline.core.errors import DataError

_BY_SUFFIX = {".xyz": "extxyz", ".extxyz": "extxyz", ".db": "db", ".aselmdb": "aselmdb", ".traj": "traj"}


class AseReader(FileReader):
    """Reads with ASE, but for extended XYZ and LMDB databases, which are parsed here, faster.

    Of extended XYZ, databases and trajectories a broken record costs only itself. Other formats give their frames in
    sequence, and what follows a broken one is lost.
    """

    def frames(self, part: Part, options: AseOptions) -> Iterator[Parse]:
        """Yield the frames of a file."""
        match _format(part, options):
            case "extxyz" | "xyz":
                with part.text() as lines:
                    yield from extxyz.frames(lines)
            case "db":
                yield from _database(part.path())
            case "aselmdb":
                with AseLmdb(part.path()) as database:
                    yield from database.frames()
            case "traj":
                yield from _trajectory(part.path())
            case name:
                yield from _others(part, name)

    def length(self, part: Part, options: AseOptions) -> int | None:
        """Return the number of rows of a database; None for files that would have to be read."""
        match _format(part, options):
            case "db":
                with connect(part.path()) as database:
                    return int(database.count())
            case "aselmdb":
                with AseLmdb(part.path()) as rows:
                    return len(rows)
            case "traj":
                with Trajectory(part.path()) as trajectory:
                    return len(trajectory)
        return None


def _format(part: Part, options: AseOptions) -> str | None:
    return options.format or _BY_SUFFIX.get(part.suffix)


def _database(path: Path) -> Iterator[Parse]:
    with connect(path) as database:
        for row in [row.id for row in database.select(columns=["id"], include_data=False)]:
            yield partial(_row, database, row)


def _row(database: Any, number: int) -> Frame:
    row = database.get(id=number)
    return atoms_frame(row.toatoms(), {**row.data, **row.key_value_pairs})


def _trajectory(path: Path) -> Iterator[Parse]:
    with Trajectory(path) as trajectory:
        for index in range(len(trajectory)):
            yield partial(_image, trajectory, index)


def _image(trajectory: Any, index: int) -> Frame:
    return atoms_frame(trajectory[index])


def _others(part: Part, name: str | None) -> Iterator[Parse]:
    try:
        if name is not None and name in ioformats and ioformats[name].acceptsfd and not ioformats[name].isbinary:
            with part.text() as text:
                for atoms in iread(text, index=":", format=name, do_not_split_by_at_sign=True):
                    yield partial(atoms_frame, atoms)
        else:
            for atoms in iread(part.path(), index=":", format=name, do_not_split_by_at_sign=True):
                yield partial(atoms_frame, atoms)
    except UnknownFileTypeError as error:
        raise DataError(f"ASE does not know the type of {part.name}.", "Set the reader's option format.") from error
