"""The files of ensembles, checked without loading a model: folders of campaigns, and exported bundles."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from gfm_pipeline.core.contracts.evaluation import CALIBRATION_FILE
from gfm_pipeline.core.errors import BundleError
from gfm_pipeline.core.publish import MANIFEST, is_published, read_manifest, verify
from gfm_pipeline.core.records import from_plain

INDEX_FILE = "bundle.json"
FORMAT, SCHEMA_VERSION = "gfm-pipeline ensemble", 1
EMPTY_ARCHIVE = b"PK\x05\x06" + bytes(18)  # also the end of every archive without a comment, but for its numbers


@dataclass(frozen=True)
class BundleIndex:
    """Content of ``bundle.json``: entries with their SHA-256, and the origin of the file."""

    format: str
    schema_version: int
    digest: str
    entries: dict[str, str]
    versions: dict[str, str] = field(default_factory=dict)
    ensemble: str = ""  # SHA-256 of the ensemble's folder


def find_ensemble(path: Path) -> Path:
    """Return ``path`` if it is a published ensemble, else the newest ensemble of the campaign in ``path``.

    Raises
    ------
    IntegrityError
        When there is no ensemble.
    """
    if (path / CALIBRATION_FILE).is_file():
        return path
    manifests = sorted(path.glob(f"stages/*/ensemble/{MANIFEST}"), key=lambda m: m.stat().st_mtime, reverse=True)
    for manifest in manifests:
        if is_published(manifest.parent):
            return manifest.parent
    raise BundleError(
        f"{path} holds no calibrated ensemble.",
        "Give a campaign whose calibrate stage is done, or the folder of an ensemble.",
    )


def read_bundle(path: Path) -> tuple[BundleIndex, dict[str, bytes]]:
    """Return the index of an exported file, and the content of each entry, compared with its SHA-256.

    Raises
    ------
    BundleError
        When it is no exported file, is truncated or changed, or has a newer version.
    """
    with _opened(path) as archive:
        return _checked(path, archive)


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """Yield the archive; a fault of the archive becomes one sentence."""
    try:
        with zipfile.ZipFile(path) as archive:
            _check_layout(path, archive)
            yield archive
    # zipfile raises NotImplementedError for compressions it does not know, RuntimeError for encrypted entries
    except (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        raise BundleError(
            f"{path} is damaged or not an exported model: {str(error).splitlines()[0] if str(error) else 'it is cut'}.",
            "Copy it again, or export the campaign again.",
        ) from error


def read_descriptions(path: Path) -> tuple[str, dict[str, bytes]]:
    """Return the digest of an ensemble's files, and the content of those of JSON, by name; all files are checked.

    Parameters
    ----------
    path
        An exported file, the folder of an ensemble, or a campaign, whose newest ensemble it is.

    Raises
    ------
    BundleError
        When it is none of these, is damaged or changed, or has a newer version.
    """
    if path.is_dir():
        folder = find_ensemble(path)
        manifest = verify(folder, digests=True)
        texts = {name: (folder / name).read_bytes() for name in manifest.files if name.endswith(".json")}
        return manifest.digest, texts
    if not path.is_file():
        raise BundleError(f"{path} {absent(path)}.", "Give a campaign, or a file that was exported.")
    index, entries = read_bundle(path)
    texts = {name: content for name, content in entries.items() if name.endswith(".json")}
    return index.digest, texts


def absent(path: Path) -> str:
    """Return why there is neither a file nor a folder at ``path``, as the end of a sentence."""
    if path.is_symlink() and not path.exists():
        return "is a link that leads nowhere"
    return "is neither a file nor a folder" if path.exists() else "does not exist"


def ensemble_digest(path: Path) -> str:
    """Return the digest of an ensemble as `read_descriptions` does, without a check of its files.

    Raises
    ------
    BundleError
        When there is no ensemble, or its manifest or index cannot be read.
    """
    if path.is_dir():
        return read_manifest(find_ensemble(path)).digest
    if not path.is_file():
        raise BundleError(f"{path} {absent(path)}.", "Give a campaign, or a file that was exported.")
    with _opened(path) as archive:
        index = _index(path, archive)
    return index.digest


def digest_of_entries(entries: Mapping[str, str]) -> str:
    """Return the digest of an exported file with these entries and SHA-256 sums."""
    return hashlib.sha256(json.dumps(dict(entries), sort_keys=True).encode()).hexdigest()


def _check_layout(path: Path, archive: zipfile.ZipFile) -> None:
    """Refuse an archive that is laid out in another way than exports are, before any entry is read.

    Then no entry takes more memory than the file takes of the disk, and the file is nothing but an archive.
    """
    entries = archive.infolist()
    for entry in entries:
        parts = PurePosixPath(entry.filename).parts
        if "\\" in entry.filename or ".." in parts or parts[:1] == ("/",):
            raise BundleError(f"{path} was changed: {entry.filename} is a place outside.", "Export the campaign again.")
        if entry.compress_type != zipfile.ZIP_STORED:
            raise BundleError(f"{path} was changed: {entry.filename} is compressed, which exports are not.")
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - len(EMPTY_ARCHIVE)))
        whole = file.read(4) == EMPTY_ARCHIVE[:4] and min((e.header_offset for e in entries), default=0) == 0
    if not whole or sum(entry.file_size for entry in entries) > size:
        raise BundleError(f"{path} was changed: it is not only an archive.", "Export the campaign again.")


def _checked(path: Path, archive: zipfile.ZipFile) -> tuple[BundleIndex, dict[str, bytes]]:
    """Return the index and the content of each entry after comparing SHA-256 sums with the index."""
    index = _index(path, archive)
    names = {entry.filename for entry in archive.infolist()} - {INDEX_FILE}
    if len(archive.infolist()) != len(names) + 1 or names != set(index.entries):
        odd = sorted(names ^ set(index.entries)) or ["an entry twice"]
        raise BundleError(f"{path} was changed: {odd[0]} is not as its index says.", "Export the campaign again.")
    entries = {}
    for name, digest in index.entries.items():
        entries[name] = archive.read(name)
        if hashlib.sha256(entries[name]).hexdigest() != digest:
            raise BundleError(f"{path} was changed: {name} has another SHA-256.", "Export the campaign again.")
    if index.digest != digest_of_entries(index.entries):
        raise BundleError(f"{path} was changed: its digest is not that of its entries.", "Export the campaign again.")
    return index, entries


def _index(path: Path, archive: zipfile.ZipFile) -> BundleIndex:
    try:
        return from_plain(BundleIndex, _known_version(path, json.loads(archive.read(INDEX_FILE))))
    except (KeyError, ValueError) as error:
        raise BundleError(f"{path} is not an exported model: it has no {INDEX_FILE} that can be read.") from error


def _known_version(path: Path, plain: Any) -> Any:
    """Return the index after a check of its version."""
    if not isinstance(plain, dict) or plain.get("format") != FORMAT:
        raise BundleError(f"{path} is not an exported model of gfm-pipeline.")
    found = plain.get("schema_version")
    if type(found) is not int or found < 1:  # True is an int, too
        raise BundleError(f"{path} was changed: its schema_version is {found!r}.", "Export the campaign again.")
    if found > SCHEMA_VERSION:
        raise BundleError(f"{path} was written by a newer version (schema {found}).", "Upgrade gfm-pipeline.")
    return plain
