"""Everything ASE reads: (ext)xyz frame by frame, databases row by row, trajectories, and any other format."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

from ase import Atoms
from ase.db import connect
from ase.io import iread
from ase.io.extxyz import read_xyz
from ase.io.formats import UnknownFileTypeError
from ase.io.trajectory import Trajectory

from gfm_pipeline.apps.contracts.data import BadRecord, SourceSettings
from gfm_pipeline.apps.contracts.sources import AseOptions, parse_options
from gfm_pipeline.apps.ingest.records import PARSE_ERRORS, Record, deal, group_name, mine, unreadable
from gfm_pipeline.common.errors import DataError

_XYZ = {".xyz", ".extxyz"}
_DATABASE = {".db", ".aselmdb"}
_FORCE_NAMES = ("forces", "force")  # "force" is how JuLIP and ACE files spell it; ASE leaves it among the arrays


@dataclass(frozen=True)
class Frame:
    """A parsed structure and the metadata that came with it."""

    atoms: Atoms
    extra: Mapping[str, Any] = field(default_factory=dict)


class AseReader:
    """Reads with ASE; a broken frame is set aside and the next one is read."""

    @property
    def converted(self) -> tuple[str, ...]:
        """None: ASE gives eV and Angstrom where a format fixes its units."""
        return ()

    def count(self, source: SourceSettings) -> int | None:
        """Return the number of rows of databases; None for files that would have to be read."""
        if not all(Path(file).suffix in _DATABASE for file in source.files):
            return None
        total = 0
        for file in source.files:
            with connect(file) as database:
                total += int(database.count())
        return total

    def read(self, source: SourceSettings, shard: int, n_shards: int, seed: int) -> Iterator[Record | BadRecord]:  # noqa: ARG002
        """Yield the records of one shard; ``seed`` is not used."""
        options = parse_options(source.reader, source.options)
        name = options.format if isinstance(options, AseOptions) else None
        files, records = deal(source.files, shard, n_shards)
        for file_index, file in files:
            for index, frame in _frames(file, name, records):
                if isinstance(frame, Exception):
                    yield unreadable(source, file, index, frame)
                else:
                    yield _record(frame, source, file, file_index, index)


def _frames(file: str, name: str | None, records: slice) -> Iterator[tuple[int, Frame | Exception]]:
    suffix = Path(file).suffix
    if name in ("xyz", "extxyz") or (name is None and suffix in _XYZ):
        return _xyz_frames(file, records)
    if name == "db" or (name is None and suffix in _DATABASE):
        return _database_frames(file, records)
    if name == "traj" or (name is None and suffix == ".traj"):
        return _trajectory_frames(file, records)
    return _other_frames(file, name, records)


def _xyz_frames(file: str, records: slice) -> Iterator[tuple[int, Frame | Exception]]:
    """Split the text at the atom counts, so that a frame that does not parse costs only itself."""
    with open(file, encoding="utf-8", errors="replace") as stream:
        index = 0
        line = stream.readline()
        while line:
            if not line.strip():
                line = stream.readline()
                continue
            if not line.strip().isdecimal():
                yield index, ValueError(f"{line.strip()[:40]!r} is not a number of atoms; the rest of the file is lost")
                return
            lines = [line, *(stream.readline() for _ in range(int(line) + 1))]
            whole = lines[-1].endswith("\n") or bool(lines[-1].strip())
            line = stream.readline()
            while line.startswith("VEC"):
                lines.append(line)
                line = stream.readline()
            if mine(index, records):
                text = "".join(lines)
                yield index, _caught(partial(_parse_xyz, text, whole=whole))
            index += 1


def _parse_xyz(text: str, *, whole: bool) -> Frame:
    if not whole:
        raise ValueError("the file ends inside this frame")
    frames = list(read_xyz(StringIO(text), index=slice(0, 1)))
    if not frames:
        raise ValueError("ASE finds no frame here")
    return Frame(frames[0])


def _row_frame(row: Any) -> Frame:
    return Frame(row.toatoms(), {**row.data, **row.key_value_pairs})


def _trajectory_frame(trajectory: Any, index: int) -> Frame:
    return Frame(trajectory[index])


def _caught(parse: Callable[[], Frame]) -> Frame | Exception:
    """Return what ``parse`` returns, or what a parser raises on malformed input."""
    try:
        return parse()
    except PARSE_ERRORS as error:
        return error


def _database_frames(file: str, records: slice) -> Iterator[tuple[int, Frame | Exception]]:
    with connect(file) as database:
        for index, row in enumerate(database.select()):
            if not mine(index, records):
                continue
            yield index, _caught(partial(_row_frame, row))


def _trajectory_frames(file: str, records: slice) -> Iterator[tuple[int, Frame | Exception]]:
    try:
        trajectory = Trajectory(file)
    except PARSE_ERRORS as error:
        yield 0, error
        return
    with trajectory:
        for index in range(records.start, len(trajectory), records.step):
            yield index, _caught(partial(_trajectory_frame, trajectory, index))


def _other_frames(file: str, name: str | None, records: slice) -> Iterator[tuple[int, Frame | Exception]]:
    """Read a format that gives its frames in sequence only: what follows a broken one is lost."""
    index = 0
    try:
        for atoms in iread(file, index=":", format=name):
            if mine(index, records):
                yield index, Frame(atoms)
            index += 1
    except UnknownFileTypeError as error:
        raise DataError(f"ASE does not know the type of {file}.", "Set the reader's option format.") from error
    except PARSE_ERRORS as error:
        if mine(index, records):
            yield index, error


def _first(places: tuple[Mapping[str, Any], ...], names: tuple[str, ...]) -> Any:
    for name in names:
        for place in places:
            if place.get(name) is not None:
                return place[name]
    return None


def _record(frame: Frame, source: SourceSettings, file: str, file_index: int, index: int) -> Record:
    atoms = frame.atoms
    results: Mapping[str, Any] = {} if atoms.calc is None else atoms.calc.results
    info: Mapping[str, Any] = {**frame.extra, **atoms.info}
    energy_names = ("energy", "free_energy") if source.energy_key is None else (source.energy_key,)
    force_names = _FORCE_NAMES if source.forces_key is None else (source.forces_key,)
    energy = _first((results, info), energy_names)
    forces = _first((results, atoms.arrays, info), force_names)
    return Record(
        numbers=atoms.numbers,
        pos=atoms.positions,
        forces=forces,
        energy=energy,
        cell=atoms.cell.array,
        pbc=atoms.pbc,
        group=group_name(source.group_key, info.get, atoms.numbers, file, index),
        file=file,
        file_index=file_index,
        index=index,
    )
