"""Copies of the recorded campaigns, and ways to change their journals."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from gfm_pipeline.campaign.journal import Entry, encode, read

FIXTURES = Path(__file__).parent / "fixtures"


def copy_of(name: str, folder: Path) -> Path:
    """Copy a recorded campaign, so that it can be changed; return the folder its commands are to run in."""
    shutil.copytree(FIXTURES / name, folder)
    return folder


def rewrite(journal: Path, change: Callable[[list[Entry]], list[Entry]]) -> None:
    """Replace the journal by one with other entries, whose checksums and numbers are right."""
    entries = change(list(read(journal)))
    journal.write_bytes(b"".join(encode(Entry(n, e.t, e.kind, e.data)) for n, e in enumerate(entries)))


def content(folder: Path) -> dict[str, bytes]:
    """Return every file below ``folder``."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
