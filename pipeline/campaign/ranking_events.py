"""Events of rankings by stored errors."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EnsembleRanked:
    """The members that stored validation errors of the finalists favour.

    ``weights``: shares of the members in that ensemble; empty if too few finalists stored errors. ``digests`` are
    those of the files (SHA-256), by candidate; ``unread`` says of other finalists why they were not considered.
    """

    key: str
    weights: dict[str, float]
    likelihood: float | None
    left_out: dict[str, str]
    digests: dict[str, str]
    unread: dict[str, str]
