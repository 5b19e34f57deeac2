"""Keys of stages: what a result depends on, and nothing more."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from gfm_pipeline.campaign.events import StageName
from gfm_pipeline.common.publish import file_sha256, write_json
from gfm_pipeline.common.records import canonical_json

# Raised when a stage's code changes what it produces from the same settings and inputs.
CODE_VERSION: dict[StageName, int] = {name: 1 for name in StageName}


def stage_key(stage: StageName, settings: dict[str, Any], inputs: dict[str, str]) -> str:
    """Return the hexadecimal SHA-256 of a stage's settings, input digests and code version."""
    text = canonical_json(
        {"stage": stage, "code": CODE_VERSION[stage], "settings": settings, "inputs": dict(sorted(inputs.items()))}
    )
    return hashlib.sha256(text.encode()).hexdigest()


def differences(old: Any, new: Any, where: str = "") -> list[str]:
    """Return one line for each value that differs, e.g. ``search.candidates: 12 -> 16``."""
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
    return [] if old == new else [f"{where}: {canonical_json(old)} -> {canonical_json(new)}"]


def file_digests(paths: list[Path], cache: Path | None) -> dict[str, str]:
    """Return the SHA-256 of each file; unchanged files (size, mtime, inode) are taken from ``cache``.

    ``cache`` is a JSON file, or None to write nothing.
    """
    known: dict[str, list[Any]] = {}
    if cache is not None and cache.exists():
        try:
            known = json.loads(cache.read_text())
        except ValueError:
            known = {}  # only a cache: a damaged one is made anew
    digests: dict[str, str] = {}
    fresh: dict[str, list[Any]] = {}
    for path in paths:
        stat = path.stat()
        stamp = [stat.st_size, stat.st_mtime_ns, stat.st_ino]
        old = known.get(str(path))
        digest = old[3] if old is not None and old[:3] == stamp else file_sha256(path)
        digests[str(path)] = digest
        fresh[str(path)] = [*stamp, digest]
    if cache is not None and fresh and fresh != known:
        write_json(cache, fresh)
    return digests
