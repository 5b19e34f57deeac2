"""Common file formats, with the reader or the conversion tool of each.

With these declarations, an error for an unreadable file names its format. A new format is one more entry.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

from gfm_pipeline.apps.ingest.files.archive_members import InputFile

_PEEK = 16  # bytes
_TO_XYZ = "Write its structures with ASE as extended XYZ, and read that"
_RUNS_CODE = "It is not read, for a pickle may run code. " + _TO_XYZ


@dataclass(frozen=True)
class KnownFormat:
    """A format that is recognised by the name or the first bytes of a file.

    Attributes
    ----------
    what
        The format, for people.
    advice
        What reads or converts it.
    names
        Patterns of file names, in lower case.
    magic
        First bytes; empty: recognised by name only.
    readers
        Readers of the format; they get no advice on their files.
    """

    what: str
    advice: str
    names: tuple[str, ...] = ()
    magic: bytes = b""
    readers: tuple[str, ...] = ()


# Formats recognised by name come before those by bytes, and specific bytes before those of containers.
KNOWN = (
    KnownFormat("a training set of VASP (ML_AB)", "Set reader: vasp", ("ml_ab", "ml_abn"), readers=("vasp",)),
    KnownFormat("the results of VASP in HDF5 (vaspout.h5)", "Set reader: vasp", ("vaspout*.h5",), readers=("vasp",)),
    KnownFormat("a NumPy archive", "Set reader: npz", ("*.npz",), readers=("npz",)),
    KnownFormat("a NumPy array", "Put the arrays into one .npz, and set reader: npz", ("*.npy",), b"\x93NUMPY"),
    KnownFormat("Parquet (ColabFit)", "Set reader: parquet", ("*.parquet",), b"PAR1", ("parquet",)),
    KnownFormat("compressed with LZ4", "Decompress it: lz4 -d FILE", ("*.lz4",), b"\x04\x22\x4d\x18"),
    KnownFormat("a tar archive compressed with Zstandard", "Unpack it: tar --zstd -xf FILE", ("*.tar.zst", "*.tzst")),
    KnownFormat("a 7-Zip archive", "Unpack it: 7z x FILE", ("*.7z",), b"7z\xbc\xaf\x27\x1c"),
    KnownFormat("a RAR archive", "Unpack it: unrar x FILE", ("*.rar",), b"Rar!\x1a\x07"),
    KnownFormat("a PyTorch file", _RUNS_CODE, ("*.pt", "*.pth")),
    KnownFormat("a pickle", _RUNS_CODE, ("*.pkl", "*.pickle", "*.pckl*", "*.pkl.gz"), b"\x80\x04"),
    KnownFormat(
        "an LMDB data set",
        "Set reader: ocp-lmdb (Open Catalyst), deepmd (DeePMD-kit), or ase and the suffix .aselmdb (FAIR chemistry)",
        ("*.lmdb", "*.mdb"),
        readers=("ocp-lmdb", "deepmd"),
    ),
    KnownFormat("a BP file of ADIOS2", "Set reader: hydragnn", ("*.bp",), readers=("hydragnn",)),
    KnownFormat("a Zarr store", _TO_XYZ, ("*.zarr", "*.zarr.zip")),
    KnownFormat("a table", "Set reader: cif-csv", ("*.csv",), readers=("cif-csv",)),
    KnownFormat(
        "an HDF5 file",
        "Set reader: hdf5 and a layout, or deepmd (DeePMD-kit), or vasp (vaspout.h5)",
        ("*.h5", "*.hdf5"),
        b"\x89HDF\r\n\x1a\n",
        ("hdf5", "deepmd", "vasp"),
    ),
    KnownFormat("a PDF document", "Leave it out", ("*.pdf",), b"%PDF"),
    KnownFormat("compressed with Zstandard", "Add the suffix .zst to its name", magic=b"\x28\xb5\x2f\xfd"),
    KnownFormat("compressed with gzip", "Add the suffix .gz to its name", magic=b"\x1f\x8b"),
    KnownFormat("compressed with xz", "Add the suffix .xz to its name", magic=b"\xfd7zXZ\x00"),
    KnownFormat("compressed with bzip2", "Add the suffix .bz2 to its name", magic=b"BZh"),
)


def recognised(part: InputFile, reader: str) -> str | None:
    """Return the format of a file that ``reader`` could not read, with advice, or None."""
    begin = b""
    if not part.in_archive and part.file.is_file():
        with open(part.file, "rb") as stream:
            begin = stream.read(_PEEK)
    packed = part.name.rpartition("/")[2].lower()
    for known in KNOWN:
        by_name = any(fnmatchcase(name, pattern) for name in (part.base.lower(), packed) for pattern in known.names)
        if by_name or (known.magic and not part.compressed and begin.startswith(known.magic)):
            return None if reader in known.readers else f"it is {known.what}. {known.advice}."
    return None
