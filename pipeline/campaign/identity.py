"""Keys of stages: digests of all settings and inputs that a result depends on."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from gfm_pipeline.core.publish import file_sha256, write_json
from gfm_pipeline.core.records import canonical_json

GONE = [-1, -1, -1]  # stamp of a missing file: differs from all other stamps


def stage_key(stage: str, settings: dict[str, Any], inputs: dict[str, str], code: int = 1) -> str:
    """Return the hexadecimal SHA-256 of a stage's name, settings, input digests and code version."""
    text = canonical_json({"stage": stage, "code": code, "settings": settings, "inputs": dict(sorted(inputs.items()))})
    return hashlib.sha256(text.encode()).hexdigest()


def differences(old: Any, new: Any, where: str = "") -> list[str]:
    """Return one line per different value, e.g. ``search.candidates: 12 -> 16``."""
    if isinstance(old, dict) and isinstance(new, dict):
        lines: list[str] = []
        for key in sorted({*old, *new}):
            inner = f"{where}.{key}" if where else str(key)
            if key not in old:
                lines.append(f"{inner}: (none) -> {canonical_json(new[key])}")
            elif key not in new:
                lines.append(f"{inner}: {canonical_json(old[key])} -> (none)")
            else:
                lines += differences(old[key], new[key], inner)
        return lines
    before, after = canonical_json(old), canonical_json(new)  # as in the key: 1 and 1.0 differ
    return [] if before == after else [f"{where}: {before} -> {after}"]


def file_digests(paths: list[Path], cache: Path) -> dict[str, str]:
    """Return the SHA-256 of each file; ``cache``, if it exists, supplies unchanged files (size, mtime, inode)."""
    known: dict[str, list[Any]] = {}
    if cache.exists():
        try:
            known = json.loads(cache.read_text())
        except ValueError:
            known = {}  # only a cache: rebuild a damaged one
    digests: dict[str, str] = {}
    for path in paths:
        old = known.get(str(path))
        digests[str(path)] = old[3] if old is not None and old[:3] == _stamp(path) else _sha256(path)
    return digests


def _sha256(path: Path) -> str:
    """Return the SHA-256 of a file, or of the names and contents of a folder's files (an ADIOS2 file is a folder)."""
    if not path.is_dir():
        return file_sha256(path)
    files = {str(p.relative_to(path)): file_sha256(p) for p in sorted(path.rglob("*")) if p.is_file()}
    return hashlib.sha256(canonical_json(files).encode()).hexdigest()


def remember_digests(digests: dict[str, str], cache: Path) -> None:
    """Save digests with the stamps of their files, for `file_digests`."""
    if digests:
        stamps = {path: _stamp(Path(path)) if Path(path).exists() else GONE for path in digests}
        write_json(cache, {path: [*stamps[path], digest] for path, digest in digests.items()})


def _stamp(path: Path) -> list[int]:
    """Return a stamp that changes with every write: size, time and inode; for a folder, those of all its files."""
    inner = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    stats = [p.stat() for p in inner]
    newest = max((s.st_mtime_ns for s in stats), default=0)
    return [sum(s.st_size for s in stats), newest, sum(s.st_ino for s in stats)]
