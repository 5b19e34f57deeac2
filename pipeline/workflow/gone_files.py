"""Source files that are gone: the recorded files that a pattern meant, and their digests."""

from __future__ import annotations

import fnmatch
import glob
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from gfm_pipeline.core.contracts.data import SourceSettings
from gfm_pipeline.core.contracts.sources import RecordedFile


def recorded_as(pattern: str, recorded: Sequence[RecordedFile]) -> list[RecordedFile]:
    """Return the recorded files whose names match ``pattern``; for a plain path, the first file with this name."""
    name = Path(pattern).name
    exact = [record for record in recorded if record.name == name][:1]
    if exact or not glob.has_magic(pattern):
        return exact
    return [record for record in recorded if fnmatch.fnmatchcase(record.name, name)]


def with_gone(matches: list[Path], recorded: Sequence[RecordedFile], folder: Path) -> list[Path]:
    """Return the files of a pattern, with missing recorded files in the recorded order if no file is new."""
    there = Counter(path.name for path in matches)
    if there - Counter(r.name for r in recorded):
        return matches  # a new file: these are other data
    left = list(matches)
    files = []
    for record in recorded:
        path = next((p for p in left if p == record.place), None)
        path = path or next((p for p in left if p.name == record.name and record.place not in matches), None)
        if path is not None:
            left.remove(path)
        files.append(path or record.place or folder / record.name)
    return files if not left else matches


def gone_digests(sources: Sequence[SourceSettings], recorded: Mapping[str, Sequence[RecordedFile]]) -> dict[str, str]:
    """Return the recorded digests of the files of ``sources`` that are gone, by path."""
    found = {}
    for source in sources:
        left = list(recorded.get(source.name, ()))
        for file in source.files:
            mine = next((r for r in left if r.place == Path(file)), None)
            mine = mine or next((r for r in left if r.name == Path(file).name), None)
            if mine is not None:
                left.remove(mine)
                if not Path(file).exists():
                    found[file] = mine.digest
    return found
