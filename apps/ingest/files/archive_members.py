"""Opens and decompresses files and members of archives alike; archives are never unpacked to disk.

It skips a byte order mark, which programs on Windows put before texts.

A ``.gz``, ``.bz2``, ``.xz`` or ``.zst`` file is decompressed as it is read. The members of ``.tar`` files, compressed
or not, come in the archive's order from a single pass over it; those of ``.zip`` files in the order of its directory.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import IO, Any, cast

from gfm_pipeline.apps.ingest.files.expansion import ExpansionError, bounded, most_of
from gfm_pipeline.core.errors import DataError
from gfm_pipeline.core.special_files import special_within

Opener = Callable[[IO[bytes]], IO[bytes]]

_TAR = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")


def _gzip(stream: IO[bytes]) -> IO[bytes]:
    return cast("IO[bytes]", gzip.GzipFile(fileobj=stream))


def _bz2(stream: IO[bytes]) -> IO[bytes]:
    return cast("IO[bytes]", bz2.BZ2File(stream))


def _xz(stream: IO[bytes]) -> IO[bytes]:
    return cast("IO[bytes]", lzma.LZMAFile(stream))


def _zst(stream: IO[bytes]) -> IO[bytes]:
    return cast("IO[bytes]", io.BufferedReader(_Zstandard(stream)))


class _Zstandard(io.RawIOBase):
    """A stream that decompresses a Zstandard file frame by frame.

    The library's own reader takes the end of a truncated file for the end of its text.
    """

    _PIECE = 4096  # bytes; they decompress to 128 MB at most

    def __init__(self, packed: IO[bytes]) -> None:
        import zstandard

        self._make = zstandard.ZstdDecompressor().decompressobj
        self._packed, self._frame, self._text = packed, self._make(), b""
        self._begun = False

    def readable(self) -> bool:
        """Return that it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read into a buffer.

        Raises
        ------
        EOFError
            When the file ends before a frame of it does.
        """
        while not self._text:
            piece = self._packed.read(self._PIECE)
            if not piece:
                if self._begun:
                    raise EOFError("the file ends before its compressed text does")
                return 0
            self._text = self._fed(piece)
        data, self._text = self._text[: len(buffer)], self._text[len(buffer) :]
        buffer[: len(data)] = data
        return len(data)

    def _fed(self, piece: bytes) -> bytes:
        found = []
        while piece:
            found.append(self._frame.decompress(piece))
            self._begun, piece = True, b""
            if self._frame.eof:
                piece, self._frame, self._begun = self._frame.unused_data, self._make(), False
        return b"".join(found)


_DECOMPRESS: dict[str, Opener] = {".gz": _gzip, ".bz2": _bz2, ".xz": _xz, ".zst": _zst}


@dataclass(frozen=True)
class InputFile:
    """One file, or one member of an archive.

    Attributes
    ----------
    name
        For people: the path, or ``archive::member``.
    file
        The path on disk, the archive's for a member.
    in_archive
        Whether it is a member.
    """

    name: str
    file: Path
    in_archive: bool
    _open: Callable[[], IO[bytes]]

    @property
    def base(self) -> str:
        """File name without folders and the suffix of a compression."""
        last = self.name.replace("::", "/").rpartition("/")[2]
        return last.removesuffix(_compression(last))

    @property
    def suffix(self) -> str:
        """Last suffix of `base` in lower case, with its dot."""
        return Path(self.base).suffix.lower()

    @property
    def compressed(self) -> bool:
        """Whether reading decompresses it."""
        return bool(_compression(self.name))

    @contextmanager
    def binary(self) -> Iterator[IO[bytes]]:
        """Open for reading, decompressed. A member of a tar archive can be opened only once."""
        with self._open() as raw:
            suffix = _compression(self.name)
            if not suffix:
                yield _unmarked(raw)
                return
            with _DECOMPRESS[suffix](raw) as stream:
                yield _unmarked(bounded(stream, self.file))

    @contextmanager
    def text(self) -> Iterator[io.TextIOWrapper]:
        """Open as text: UTF-8, or UTF-16 by its mark.

        Invalid bytes are replaced, so that they affect only their own record.
        """
        with self.binary() as stream:
            encoding = "utf-16" if _begin(stream, 2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8"
            with io.TextIOWrapper(stream, encoding, errors="replace") as text:
                yield text

    def path(self) -> Path:
        """Return the path of a format that needs a file on disk.

        Raises
        ------
        DataError
            When the file is compressed or in an archive.
        """
        if self.in_archive or _compression(self.name):
            raise DataError(
                f"{self.name} is of a format that is not read from inside archives or compressed files.",
                "Unpack it first.",
            )
        return self.file


def _begin(stream: IO[bytes], size: int) -> bytes:
    """Return the first bytes of a stream without consuming them; all streams opened here can peek."""
    return bytes(cast("io.BufferedReader", stream).peek(size)[:size])


def _unmarked(stream: IO[bytes]) -> IO[bytes]:
    """Skip a UTF-8 mark at the start of a stream, and return the stream."""
    if _begin(stream, len(codecs.BOM_UTF8)) == codecs.BOM_UTF8:
        stream.read(len(codecs.BOM_UTF8))
    return stream


def _compression(name: str) -> str:
    return next((suffix for suffix in _DECOMPRESS if name.lower().endswith(suffix)), "")


def is_archive(file: str) -> bool:
    """Return whether a path is an archive, by its name."""
    return file.lower().endswith((*_TAR, ".zip"))


def parts(file: str, members: str = "*") -> Iterator[InputFile]:
    """Yield the file itself, or the members of an archive whose names match the pattern ``members``.

    Raises
    ------
    DataError
        When no member matches. Damaged archives raise what tarfile, zipfile and the decompressors raise.
    """
    path = Path(file)
    special = special_within(path)
    if special is not None:
        raise DataError(f"{special[0]} is {special[1]} and no file.", "Give files or folders of files.")
    if not is_archive(file):
        yield InputFile(file, path, False, partial(_on_disk, path))
        return
    found = _zip_members(path, members) if file.lower().endswith(".zip") else _tar_members(path, members)
    none = True
    for part in found:
        none = False
        yield part
    if none:
        raise DataError(f"No member of {file} matches {members!r}.", "Correct the reader's option members.")


def _wanted(name: str, members: str) -> bool:
    """Return whether a member matches: by its exact name, with any characters, or by a pattern."""
    return name == members or fnmatchcase(name, members)


def _on_disk(path: Path) -> IO[bytes]:
    return open(path, "rb")


class _Forward(io.RawIOBase):
    """A member of a tar archive that is read in one pass; its own file object cannot say that it does not seek."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def readable(self) -> bool:
        """Return that it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read into a buffer."""
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def _tar_members(path: Path, members: str) -> Iterator[InputFile]:
    with tarfile.open(path, "r|*") as archive:
        most = most_of(path)
        while (info := archive.next()) is not None:
            if archive.offset > most:
                raise ExpansionError(f"it expands to more than {most:,} bytes")
            cast("Any", archive).members.clear()  # tarfile stores all members it has read, which may be millions
            if not info.isfile() or not _wanted(info.name, members):
                continue
            stream = archive.extractfile(info)
            if stream is not None:
                yield InputFile(f"{path}::{info.name}", path, True, partial(io.BufferedReader, _Forward(stream)))
        # tarfile takes the end of the file for the end of the archive, which has its own mark.
        if archive.fileobj is not None and archive.fileobj.tell() <= archive.offset:
            raise tarfile.ReadError("the archive has no end mark: it is cut short")


def _zip_members(path: Path, members: str) -> Iterator[InputFile]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if not info.is_dir() and _wanted(info.filename, members):
                yield InputFile(f"{path}::{info.filename}", path, True, partial(_zip_member, archive, info, path))


def _zip_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> IO[bytes]:
    return bounded(archive.open(info), path)
