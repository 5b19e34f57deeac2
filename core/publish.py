"""Files and folders that appear whole or not at all.

To publish a folder, fill a temporary folder next to it, sync every file, write ``manifest.json`` last and rename the
folder. A folder without a valid manifest does not exist. ADIOS2 readers hang on truncated files and do not notice
flipped bits, so the manifest is checked (sizes always, digests on demand) before any file is opened.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gfm_pipeline.core.errors import ConfigError, IntegrityError, StorageError
from gfm_pipeline.core.faultpoints import FaultPoint, reach
from gfm_pipeline.core.records import canonical_json, from_plain, to_plain

MANIFEST = "manifest.json"
SCHEMA_VERSION = 1
_REFUSALS = {
    errno.ENOSPC: "Make space there",
    errno.EDQUOT: "Make space there or have the quota raised",
    errno.EROFS: "Have the file system mounted for writing",
    errno.EIO: "Have the disk looked at",
    errno.ESTALE: "Have the file system mounted anew",
}


@dataclass(frozen=True)
class FileEntry:
    """One file of an artefact: size in bytes and SHA-256 (hex)."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The contents of an artefact folder.

    ``digest`` is the SHA-256 over names and digests of all files: equal digests mean equal content. ``meta`` is free
    for the producer.
    """

    schema_version: int
    producer: str
    digest: str
    files: dict[str, FileEntry]
    meta: dict[str, Any]


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Convert errors of a full, read-only or failing disk to one sentence with the path and the fix."""
    try:
        yield
    except OSError as error:
        if error.errno in _REFUSALS:
            raise StorageError(
                f"Cannot write {path}: {os.strerror(error.errno)}.",
                f"{_REFUSALS[error.errno]}, then run the same command again.",
            ) from error
        raise


def fsync_dir(path: Path) -> None:
    """Make the names inside ``path`` durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_output(path: Path, inputs: Iterable[Path | str] = (), *, overwrite: bool = False) -> None:
    """Refuse to write over a file: one that exists, unless ``overwrite``, and always one that is read for the output.

    Raises
    ------
    ConfigError
        With the file and the fix.
    """
    if not path.exists():
        return
    if any(Path(one).exists() and path.samefile(one) for one in inputs):
        raise ConfigError(f"{path} is also read, and its content would be lost.", "Give the output another name.")
    if not overwrite:
        raise ConfigError(f"{path} exists.", "Give another name, or --overwrite.")


def write_atomic(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Write ``data`` to ``path`` so that a reader sees the old or the new file, never a part.

    Without ``durable``, the call does not wait for the disk, and the file may not survive a crash of the machine.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    with storage_errors(path):
        reach(FaultPoint.FILE_BEFORE_WRITE)
        try:
            with open(temporary, "wb") as stream:
                stream.write(data)
                stream.flush()
                if durable:
                    os.fsync(stream.fileno())
            reach(FaultPoint.FILE_BEFORE_RENAME)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        reach(FaultPoint.FILE_AFTER_RENAME)
        if durable:
            fsync_dir(path.parent)


def write_json(path: Path, value: Any, *, durable: bool = True) -> None:
    """Write plain data as indented JSON, atomically."""
    text = json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    write_atomic(path, text.encode(), durable=durable)


def write_record(path: Path, record: Any, *, durable: bool = True) -> None:
    """Write a dataclass as JSON, atomically."""
    write_json(path, to_plain(record), durable=durable)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, read in 1 MiB pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _describe(folder: Path) -> dict[str, FileEntry]:
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / MANIFEST)
    return {str(p.relative_to(folder)): FileEntry(p.stat().st_size, file_sha256(p)) for p in paths}


def digest_of(files: dict[str, FileEntry]) -> str:
    """Return the digest of an artefact of these files."""
    return hashlib.sha256(canonical_json({k: v.sha256 for k, v in files.items()}).encode()).hexdigest()


@contextmanager
def publishing(final: Path, producer: str, meta: dict[str, Any] | None = None) -> Iterator[Path]:
    """Yield a temporary folder; on clean exit publish it as ``final``.

    ``meta`` may be filled inside the ``with``: it is read when the manifest is written.
    A valid ``final`` that already exists is kept and the new work is dropped, so a
    repeated task is harmless. On an exception nothing is left behind.

    Raises
    ------
    StorageError
        When the disk refuses.
    IntegrityError
        When a newer version of this program has published ``final``.
    """
    meta = {} if meta is None else meta
    with storage_errors(final):
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary = final.with_name(f".{final.name}.tmp-{uuid.uuid4().hex[:8]}")
        temporary.mkdir()
        try:
            reach(FaultPoint.PUBLISH_BEGUN)
            yield temporary
            reach(FaultPoint.PUBLISH_FILLED)
            files = _describe(temporary)
            for folder in [p for p in temporary.rglob("*") if p.is_dir()] + [temporary]:
                for name in folder.iterdir():
                    if name.is_file():
                        with open(name, "rb") as stream:
                            os.fsync(stream.fileno())
                fsync_dir(folder)
            digest = digest_of(files)
            reach(FaultPoint.PUBLISH_BEFORE_MANIFEST)
            write_record(temporary / MANIFEST, Manifest(SCHEMA_VERSION, producer, digest, files, meta))
            reach(FaultPoint.PUBLISH_BEFORE_RENAME)
            if final.exists():
                if is_published(final):
                    return
                shutil.rmtree(final)
            try:
                temporary.rename(final)
            except OSError:
                if not is_published(final):  # an equal attempt was faster: its copy stays
                    raise
            reach(FaultPoint.PUBLISH_AFTER_RENAME)
            fsync_dir(final.parent)
            reach(FaultPoint.PUBLISH_DONE)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _manifest_data(folder: Path) -> Any:
    path = folder / MANIFEST
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise IntegrityError(f"{folder} has no {MANIFEST}: it was never finished, or it was removed.") from None
    except ValueError as error:
        raise IntegrityError(f"{path} is damaged: {str(error).splitlines()[0]}.") from error
    except OSError as error:
        raise IntegrityError(f"{path} cannot be read: {error.strerror}.") from error


def _refuse_newer(folder: Path, data: Any) -> None:
    """Raise for a manifest of a newer version before reading its fields, which may differ."""
    version = data.get("schema_version") if isinstance(data, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise IntegrityError(f"{folder} was written by a newer version (schema {version}).", "Upgrade gfm-pipeline.")


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of a published folder.

    Raises
    ------
    IntegrityError
        When there is none, or it is unreadable, changed by hand, or of a newer version.
    """
    data = _manifest_data(folder)
    _refuse_newer(folder, data)
    try:
        manifest = from_plain(Manifest, data)
    except ValueError as error:
        raise IntegrityError(f"{folder / MANIFEST} is damaged: {str(error).splitlines()[0]}.") from error
    if manifest.digest != digest_of(manifest.files):
        raise IntegrityError(f"{folder / MANIFEST} was changed: its digest is not that of the files it lists.")
    return manifest


def manifest_lists(folder: Path, name: str) -> bool:
    """Return whether ``folder`` has a manifest of this project that lists ``name``, or files below it."""
    try:
        data = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    files = data.get("files") if isinstance(data, dict) and "producer" in data else None
    return isinstance(files, dict) and any(str(f) == name or str(f).startswith(f"{name}/") for f in files)


def verify(folder: Path, *, digests: bool = False) -> Manifest:
    """Check a published folder against its manifest: sizes always, SHA-256 when ``digests``.

    Raises
    ------
    IntegrityError
        Naming the first file that is missing, unreadable, of another size, or changed.
    """
    manifest = read_manifest(folder)
    for name, entry in manifest.files.items():
        path = folder / name
        try:
            if not path.is_file():
                raise IntegrityError(f"{path} is missing, though its manifest lists it.")
            if path.stat().st_size != entry.size:
                raise IntegrityError(f"{path} has {path.stat().st_size} bytes, its manifest says {entry.size}.")
            if digests and file_sha256(path) != entry.sha256:
                raise IntegrityError(f"{path} was changed after it was published (its SHA-256 is another).")
        except OSError as error:
            raise IntegrityError(f"{path} cannot be read: {error.strerror}.") from error
    return manifest


def is_published(folder: Path) -> bool:
    """Return whether ``folder`` is a complete artefact (manifest present, sizes right)."""
    try:
        verify(folder)
    except (IntegrityError, OSError):
        return False
    return True
