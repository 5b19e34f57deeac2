"""The recorded source files of a campaign: published datasets do not need them, so they may be missing."""

from __future__ import annotations

import json
from pathlib import Path

from gfm_pipeline.campaign.paths import CampaignPaths
from gfm_pipeline.campaign.state import load_state
from gfm_pipeline.core.contracts.sources import RecordedFile


def recorded_sources(paths: CampaignPaths, ingest: str) -> dict[str, tuple[RecordedFile, ...]]:
    """Return the files that the last finished ingest read, by source, in its order; empty while all files exist.

    ``ingest`` is the name of the stage.

    Raises
    ------
    IntegrityError
        When the journal is damaged.
    """
    if not paths.journal.exists():
        return {}
    cached = _cached(paths.digests)
    if cached and all(Path(path).exists() for path in cached):
        return {}
    state = load_state(paths.journal)
    done = [s for s in state.stages.values() if s.stage == ingest and s.outputs is not None]
    current = state.current.get(ingest)
    stage = max(done, key=lambda s: (s.key == current, s.opened), default=None)
    if stage is None:
        return {}
    found: dict[str, list[RecordedFile]] = {}
    for name, digest in sorted(stage.inputs.items()):  # "source/00000-name"
        source, _, rest = name.partition("/")
        file = rest.partition("-")[2]
        place = next((p for p, d in cached.items() if d == digest and Path(p).name == file), None)
        if place is not None:
            del cached[place]  # a second file with the same name and content is a different file
        found.setdefault(source, []).append(RecordedFile(file, digest, None if place is None else Path(place)))
    return {source: tuple(files) for source, files in found.items()}


def _cached(path: Path) -> dict[str, str]:
    """Return the cached digests of files by their paths."""
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        return {place: str(entry[3]) for place, entry in known.items()}
    except (OSError, ValueError, IndexError, TypeError, AttributeError):
        return {}  # only a cache
