"""What those who keep jobs going ask of a batch system: less than it can do, so that a simulated one can stand in."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from gfm_pipeline.batch_systems.base import JobInfo


class JobQueue(Protocol):
    """Jobs, by names that are used once. Every method may raise `SchedulerTrouble`; ask again later."""

    def submit(self, script: Path, name: str) -> str:
        """Submit ``script`` as the job ``name``, unless a job of that name was submitted; return the job's id."""

    def jobs(self, names_or_ids: Collection[str]) -> Mapping[str, JobInfo]:
        """Return what is known of jobs, by the names or ids asked for."""

    def cancel(self, ids: Sequence[str]) -> None:
        """End jobs; those that have ended are no trouble."""

    def cancel_by_name(self, name: str) -> None:
        """End every job of the user with this name."""

    def bad_nodes(self, nodes: Sequence[str]) -> Mapping[str, str]:
        """Return, of these nodes, those that are down, drained, failing or silent, with the reason."""
