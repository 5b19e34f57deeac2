"""Reads all formats of ASE: extended XYZ frame by frame, databases row by row, trajectories, and any other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from ase.io import iread
from ase.io.formats import UnknownFileTypeError, filetype, ioformats
from ase.io.trajectory import Trajectory

from gfm_pipeline.apps.ingest.files.archive_members import InputFile
from gfm_pipeline.apps.ingest.files.file_reader import FileReader, Frame, Parse
from gfm_pipeline.apps.ingest.readers.ase.atoms import atoms_frame
from gfm_pipeline.apps.ingest.readers.ase.lmdb import AseLmdb
from gfm_pipeline.apps.ingest.readers.ase.sqlite import AseSqlite, is_sqlite
from gfm_pipeline.apps.ingest.readers.extxyz import parser as extxyz
from gfm_pipeline.core.contracts.options import AseOptions
from gfm_pipeline.core.errors import DataError

_BY_SUFFIX = {
    ".xyz": "extxyz",
    ".extxyz": "extxyz",
    ".exyz": "extxyz",
    ".db": "db",
    ".aselmdb": "aselmdb",
    ".traj": "traj",
}
_SAME = {"xyz": "extxyz", "sqlite": "db", "sqlite3": "db"}  # other names of formats that are read here


class AseReader(FileReader):
    """Reads with ASE, except extended XYZ and LMDB databases, which this package parses faster.

    In extended XYZ, databases and trajectories, a broken record costs only itself. Other formats yield frames in
    sequence, and the frames after a broken one are lost.
    """

    def frames(self, part: InputFile, options: AseOptions) -> Iterator[Parse]:
        """Yield the frames of a file."""
        match _format(part, options):
            case "extxyz":
                with part.text() as lines:
                    yield from extxyz.frames(lines)
            case "db":
                with AseSqlite(part.path()) as stored:
                    yield from stored.frames()
            case "aselmdb":
                with AseLmdb(part.path()) as database:
                    yield from database.frames()
            case "traj":
                yield from _trajectory(part.path())
            case name:
                yield from _others(part, name)

    def length(self, part: InputFile, options: AseOptions) -> int | None:
        """Return the number of rows of a database; None for files that need reading."""
        match _format(part, options):
            case "db":
                with AseSqlite(part.path()) as stored:
                    return len(stored)
            case "aselmdb":
                with AseLmdb(part.path()) as rows:
                    return len(rows)
            case "traj":
                with Trajectory(part.path()) as trajectory:
                    return len(trajectory)
        return None


def _format(part: InputFile, options: AseOptions) -> str | None:
    """Return the name of the format: as set, by suffix, or by the first bytes; None: ASE determines it."""
    name = options.format or _BY_SUFFIX.get(part.suffix)
    if name is None and not part.in_archive and part.file.is_file() and is_sqlite(part.file):
        return "db"
    return _SAME.get(name or "", name)


def _trajectory(path: Path) -> Iterator[Parse]:
    with Trajectory(path) as trajectory:
        for index in range(len(trajectory)):
            yield partial(_image, trajectory, index)


def _image(trajectory: Any, index: int) -> Frame:
    return atoms_frame(trajectory[index])


def _others(part: InputFile, name: str | None) -> Iterator[Parse]:
    name = name or _guessed(part)
    about = ioformats.get(name or "")
    try:
        if about is not None and about.acceptsfd:
            opened: Any = part.binary() if about.isbinary else part.text()
            with opened as stream:
                for atoms in iread(stream, index=":", format=name):
                    yield partial(atoms_frame, atoms)
        else:
            # ASE takes what follows an @ in a name for the number of a frame.
            for atoms in iread(part.path(), index=":", format=name, do_not_split_by_at_sign=True):
                yield partial(atoms_frame, atoms)
    except UnknownFileTypeError as error:
        raise DataError(f"ASE does not know the type of {part.name}.", "Set the reader's option format.") from error


def _guessed(part: InputFile) -> str | None:
    """Return the format of a member or a compressed file by its name; ASE examines other files itself."""
    if part.in_archive or part.compressed:
        with suppress(UnknownFileTypeError):
            return str(filetype(part.base, read=False))
    return None
