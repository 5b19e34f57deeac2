"""Systems of DeePMD-kit, as folders of ``.npy`` or ``.raw`` files, as HDF5 or as LMDB.

The layouts: https://docs.deepmodeling.com/projects/deepmd/en/stable/data/system.html (``type.raw``, ``type_map.raw``,
``nopbc``, ``set.*/coord.npy`` [F, 3N], ``box.npy`` [F, 9], ``energy.npy`` [F], ``force.npy`` [F, 3N], and
``real_atom_types.npy`` [F, N] of mixed systems, -1 where there is no atom) and, for LMDB,
https://docs.deepmodeling.com/projects/deepmd/en/latest/data/lmdb.html (msgpack of arrays a frame, and
``__metadata__``). ``.raw`` files are the same arrays as text, a line per frame, beside ``type.raw``; an HDF5 file has a
group a system, filled as its folder is. Units are eV and Angstrom.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import msgpack
import numpy as np
from numpy.typing import NDArray

from gfm_pipeline.apps.ingest.files.archive_members import InputFile
from gfm_pipeline.apps.ingest.files.file_reader import FileReader, Frame, Parse
from gfm_pipeline.apps.ingest.files.hdf5_links import own
from gfm_pipeline.apps.ingest.files.lmdb_file import LmdbFile
from gfm_pipeline.apps.ingest.labels.known_keys import KeySets
from gfm_pipeline.apps.ingest.readers.species import number_of
from gfm_pipeline.apps.ingest.records import disk_trouble
from gfm_pipeline.core.contracts.options import DeepmdOptions

_STRUCTURE = frozenset({"coord", "box", "real_atom_types", "coords", "cells", "atom_types", "atom_numbs"})
_NAMES = ("coord", "box", "energy", "force", "real_atom_types")
_READ = frozenset(_NAMES)
_METADATA = b"__metadata__"


_KEY_SETS = KeySets()


class DeepmdReader(FileReader):
    """Reads system folders; folders and files that end in ``.lmdb`` as LMDB."""

    def frames(self, part: InputFile, options: DeepmdOptions) -> Iterator[Parse]:
        """Yield the frames of a system, set after set."""
        if part.suffix == ".lmdb":
            with LmdbFile(part.path()) as file:
                about = _metadata(file)
                numbers = _numbers_of(options.type_map or tuple(about.get("type_map") or ()))
                for key in _keys(file, about):
                    yield partial(_lmdb_frame, file, key, numbers)
            return
        if part.path().is_file():
            with h5py.File(part.path()) as file:
                for group in _systems_of(file):
                    yield from _frames_of(_Stored(group, options))
            return
        if not any(part.path().glob("set.*")) and (part.path() / "coord.raw").exists():
            yield from _raw_frames(part.path(), options)
            return
        yield from _frames_of(_System(part.path(), options))

    def length(self, part: InputFile, options: DeepmdOptions) -> int | None:
        """Return the number of frames."""
        if part.suffix == ".lmdb":
            with LmdbFile(part.path()) as file:
                return _claimed(file, _metadata(file))
        if part.path().is_file():
            with h5py.File(part.path()) as stored:
                return sum(
                    len(folder["coord.npy"]) for group in _systems_of(stored) for folder in _Stored(group, options).sets
                )
        if not any(part.path().glob("set.*")):
            return None
        system = _System(part.path(), options)
        return sum(len(np.load(folder / "coord.npy", mmap_mode="r", allow_pickle=False)) for folder in system.sets)


def _frames_of(system: _System | _Stored) -> Iterator[Parse]:
    for folder in system.sets:
        try:
            arrays = system.load(folder)
        except Exception as error:  # a damaged system costs itself, whatever its arrays make NumPy or h5py raise
            if disk_trouble(error):
                raise
            yield from [partial(_refuse, f"{folder.name}: {error}")] * system.size(folder)
            continue
        for index in range(len(arrays["coord"])):
            yield partial(system.frame, arrays, index)


def _raw_frames(folder: Path, options: DeepmdOptions) -> Iterator[Parse]:
    """Yield the frames of a system whose arrays are text, a line per frame."""
    system = _System(folder, options)
    with ExitStack() as stack:
        files = {
            name: stack.enter_context(open(folder / f"{name}.raw", encoding="utf-8", errors="replace"))
            for name in _NAMES
            if (folder / f"{name}.raw").exists()
        }
        for line in files.pop("coord"):
            if line.strip():
                yield partial(_raw_frame, system, {"coord": line, **{k: next(v, "") for k, v in files.items()}})


def _raw_frame(system: _System, lines: dict[str, str]) -> Frame:
    arrays = {name: np.array([[float(word) for word in line.split()]]) for name, line in lines.items()}
    short = next((name for name, array in arrays.items() if not array.size), None)
    if short is not None:
        raise ValueError(f"{short}.raw has no line for this frame")
    if "real_atom_types" in arrays:
        arrays["real_atom_types"] = arrays["real_atom_types"].astype(np.int64)
    return system.frame(arrays, 0)


def _systems_of(file: Any, visited: set[int] | None = None) -> Iterator[Any]:
    """Yield the groups that are systems, each once: those with ``type.raw``; below one, none is looked for."""
    visited = set() if visited is None else visited
    address = h5py.h5o.get_info(file.id).addr
    if address in visited:
        return
    visited.add(address)
    if "type.raw" in file:
        yield file
        return
    for name in file:
        if isinstance(file.get(name, getlink=True), h5py.HardLink) and isinstance(file[name], h5py.Group):
            yield from _systems_of(file[name], visited)


def _refuse(reason: str) -> Frame:
    raise ValueError(reason)


def _numbers_of(type_map: tuple[str, ...]) -> NDArray[np.int64]:
    if not type_map:
        raise ValueError("the elements of the types are not named: set the option type_map")
    return np.array([number_of(symbol) for symbol in type_map])


class _System:
    """One folder."""

    def __init__(self, folder: Path, options: DeepmdOptions) -> None:
        self.types = np.loadtxt(folder / "type.raw", dtype=np.int64, ndmin=1)
        named = folder / "type_map.raw"
        names = options.type_map or (tuple(named.read_text().split()) if named.exists() else ())
        self.numbers = _numbers_of(names)
        self.periodic = not (folder / "nopbc").exists()
        self.sets: list[Any] = sorted(path for path in folder.glob("set.*") if path.is_dir())

    @staticmethod
    def size(folder: Any) -> int:
        """Return the number of frames of a set that cannot be read, as far as its positions say, else 1."""
        with suppress(Exception):
            if isinstance(folder, Path):
                return max(1, len(np.load(folder / "coord.npy", mmap_mode="r", allow_pickle=False)))
            return max(1, len(folder["coord.npy"]))
        return 1

    def load(self, folder: Any) -> dict[str, Any]:
        """Map the arrays of a set into memory."""
        found = {path.stem: path for path in sorted(folder.glob("*.npy"))}
        if "coord" not in found:
            raise ValueError("there is no coord.npy")
        loaded = {name: _mapped(path, name in _READ) for name, path in found.items()}
        arrays = {name: array for name, array in loaded.items() if array is not None}
        several = {name: array for name, array in arrays.items() if array.ndim and len(array) == len(arrays["coord"])}
        arrays = {name: array for name, array in arrays.items() if name in _READ or name in several}
        odd = [name for name, array in arrays.items() if len(array) != len(arrays["coord"])]
        if odd:
            raise ValueError(f"{odd[0]}.npy has {len(arrays[odd[0]])} frames, coord.npy {len(arrays['coord'])}")
        return arrays

    def frame(self, arrays: dict[str, Any], index: int) -> Frame:
        """Return one frame of a set."""
        types = arrays["real_atom_types"][index] if "real_atom_types" in arrays else self.types
        real = types >= 0
        box = arrays["box"][index] if self.periodic and "box" in arrays else None
        return Frame(
            numbers=self.numbers[types[real]],
            pos=np.array(arrays["coord"][index]).reshape(-1, 3)[real],
            cell=np.zeros((3, 3)) if box is None else np.array(box).reshape(3, 3),
            pbc=np.full(3, box is not None),
            energy=float(np.ravel(arrays["energy"][index])[0]) if "energy" in arrays else None,
            forces=np.array(arrays["force"][index]).reshape(-1, 3)[real] if "force" in arrays else None,
            find=lambda name: arrays[name][index] if name in arrays else None,
            keys=_KEY_SETS.of(_labels(arrays, index), len(types), "energy", "force"),
        )


class _Stored(_System):
    """One group of an HDF5 file, named and filled as the folder of a system is."""

    def __init__(self, group: Any, options: DeepmdOptions) -> None:
        self.types = np.asarray(own(group, "type.raw")[()], dtype=np.int64)
        named = np.ravel(group["type_map.raw"][()]).tolist() if "type_map.raw" in group else []
        self.numbers = _numbers_of(options.type_map or tuple(bytes(name).decode() for name in named))
        self.periodic = not bool(group["nopbc"][()]) if "nopbc" in group else True
        self.sets = [own(group, name) for name in sorted(group) if name.startswith("set.")]

    def load(self, folder: Any) -> dict[str, Any]:
        """Return the arrays of a set, which are read frame by frame."""
        arrays = {name.removesuffix(".npy"): own(folder, name) for name in folder if name.endswith(".npy")}
        if "coord" not in arrays:
            raise ValueError("there is no coord.npy")
        odd = next((name for name, array in arrays.items() if len(array) != len(arrays["coord"])), None)
        if odd is not None:
            raise ValueError(f"{odd}.npy has {len(arrays[odd])} frames, coord.npy {len(arrays['coord'])}")
        return arrays


def _mapped(path: Path, needed: bool) -> NDArray[Any] | None:
    """Map an array into memory; None where it cannot be, and is not needed: arrays of objects, of other programs."""
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError:
        if needed:
            raise
        return None
    return array


def _labels(arrays: dict[str, NDArray[Any]], index: int) -> dict[str, Any]:
    return {name: array[index] for name, array in arrays.items() if name not in _STRUCTURE}


def _metadata(file: LmdbFile) -> dict[str, Any]:
    packed = file.get(_METADATA)
    if packed is None:
        raise ValueError("there is no __metadata__: this is not a DeePMD data set")
    about: dict[str, Any] = msgpack.unpackb(packed, raw=False)
    return about


def _claimed(file: LmdbFile, about: dict[str, Any]) -> int:
    return file.claimed(int(about["nframes"]))


def _keys(file: LmdbFile, about: dict[str, Any]) -> Iterator[bytes]:
    style = str(about.get("frame_idx_fmt", "012d"))
    if len(style) > 8 or not style[:-1].isdecimal() or int(style[:-1]) > 500:  # a key of LMDB has 511 bytes at most
        raise ValueError(f"frame_idx_fmt is {style[:40]!r}, no format of numbers such as 012d")
    return (format(index, style).encode() for index in range(_claimed(file, about)))


def _array(packed: dict[str, Any]) -> NDArray[Any]:
    return np.frombuffer(packed["data"], dtype=np.dtype(packed["type"])).reshape(packed["shape"])


def _lmdb_frame(file: LmdbFile, key: bytes, numbers: NDArray[np.int64]) -> Frame:
    packed = file.get(key)
    if packed is None:
        raise ValueError(f"frame {key.decode()} is missing")
    arrays = {name: _array(x) for name, x in msgpack.unpackb(packed, raw=False).items() if isinstance(x, dict)}
    types, cell = arrays["atom_types"], arrays.get("cells")
    real = types >= 0
    periodic = cell is not None and bool(np.any(cell))
    return Frame(
        numbers=numbers[types[real]],
        pos=arrays["coords"].reshape(-1, 3)[real],
        cell=np.zeros((3, 3)) if cell is None else cell.reshape(3, 3),
        pbc=np.full(3, periodic),
        energy=float(np.ravel(arrays["energies"])[0]) if "energies" in arrays else None,
        forces=arrays["forces"].reshape(-1, 3)[real] if "forces" in arrays else None,
        find=arrays.get,
        keys=_KEY_SETS.of({k: v for k, v in arrays.items() if k not in _STRUCTURE}, len(types), "energies", "forces"),
    )
