"""Programs that pretend: real contracts, files and exits, a fraction of a second each, results a function of the spec.

They stand in for the real ones through a site's ``programs``, so that tests drive the real engine, the real
Parsl and the real task wrapper cheaply. Nothing here imports torch, ADIOS2 or ASE.
"""

from __future__ import annotations

import hashlib
from typing import Any

from gfm_pipeline.core.records import canonical_json


def mix(*parts: Any) -> str:
    """Return a digest of plain data: the pretended content of an artefact."""
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()


def fraction(text: str) -> float:
    """Return a number in [0, 1) that is a function of ``text``."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:12], 16) / 16**12
