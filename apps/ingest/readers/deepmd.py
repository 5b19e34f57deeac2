"""Systems of DeePMD-kit, as folders of ``.npy`` files or as LMDB.

The layouts: https://docs.deepmodeling.com/projects/deepmd/en/stable/data/system.html (``type.raw``, ``type_map.raw``,
``nopbc``, ``set.*/coord.npy`` [F, 3N], ``box.npy`` [F, 9], ``energy.npy`` [F], ``force.npy`` [F, 3N], and
``real_atom_types.npy`` [F, N] of mixed systems, -1 where there is no atom) and, for LMDB,
https://docs.deepmodeling.com/projects/deepmd/en/latest/data/lmdb.html (msgpack of arrays a frame, and
``__metadata__``). Units are eV and Angstrom.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from gfm_pipeline.apps.ingest.files.archive_members import Part
from gfm_pipeline.apps.ingest.files.file_reader import FileReader, Frame, Parse
from gfm_pipeline.apps.ingest.files.lmdb_file import LmdbFile
from gfm_pipeline.apps.ingest.readers.species import number_of
from gfm_pipeline.apps.ingest.records import disk_trouble
from gfm_pipeline.core.contracts.options import DeepmdOptions

_METADATA = b"__metadata__"


class DeepmdReader(FileReader):
    """Reads system folders; folders and files that end in ``.lmdb`` as LMDB."""

    def frames(self, part: Part, options: DeepmdOptions) -> Iterator[Parse]:
        """Yield the frames of a system, set after set."""
        if part.suffix == ".lmdb":
            with LmdbFile(part.path()) as file:
                about = _metadata(file)
                numbers = _numbers_of(options.type_map or tuple(about.get("type_map") or ()))
                for key in _keys(about):
                    yield partial(_lmdb_frame, file, key, numbers)
            return
        system = _System(part.path(), options)
        for folder in system.sets:
            try:
                arrays = system.load(folder)
            except Exception as error:
                if disk_trouble(error):
                    raise
                yield partial(_refuse, f"{folder.name}: {error}")
                continue
            for index in range(len(arrays["coord"])):
                yield partial(system.frame, arrays, index)

    def length(self, part: Part, options: DeepmdOptions) -> int | None:
        """Return the number of frames."""
        if part.suffix == ".lmdb":
            with LmdbFile(part.path()) as file:
                return int(_metadata(file)["nframes"])
        system = _System(part.path(), options)
        return sum(len(np.load(folder / "coord.npy", mmap_mode="r", allow_pickle=False)) for folder in system.sets)


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
        self.sets = sorted(path for path in folder.glob("set.*") if path.is_dir())

    def load(self, folder: Path) -> dict[str, NDArray[Any]]:
        """Map the arrays of a set into memory."""
        names = ("coord", "box", "energy", "force", "real_atom_types")
        found = {name: folder / f"{name}.npy" for name in names}
        if not found["coord"].exists():
            raise ValueError("there is no coord.npy")
        arrays = {
            name: np.load(path, mmap_mode="r", allow_pickle=False) for name, path in found.items() if path.exists()
        }
        odd = [name for name, array in arrays.items() if len(array) != len(arrays["coord"])]
        if odd:
            raise ValueError(f"{odd[0]}.npy has {len(arrays[odd[0]])} frames, coord.npy {len(arrays['coord'])}")
        return arrays

    def frame(self, arrays: dict[str, NDArray[Any]], index: int) -> Frame:
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
        )


def _metadata(file: LmdbFile) -> dict[str, Any]:
    packed = file.get(_METADATA)
    if packed is None:
        raise ValueError("there is no __metadata__: this is no DeePMD data set")
    about: dict[str, Any] = msgpack.unpackb(packed, raw=False)
    return about


def _keys(about: dict[str, Any]) -> Iterator[bytes]:
    style = str(about.get("frame_idx_fmt", "012d"))
    return (format(index, style).encode() for index in range(int(about["nframes"])))


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
    )
