"""The part of a batch system that keeps jobs running; small, so that a simulation can replace it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from gfm_pipeline.batch_systems.base import JobInfo


class JobQueue(Protocol):
    """Jobs with unique names. Every method may raise `SchedulerTrouble`; try again later."""

    def submit(self, script: Path, name: str) -> str:
        """Submit ``script`` as the job ``name``, unless a job of that name was submitted; return the job's id."""

    def jobs(self, names_or_ids: Collection[str]) -> Mapping[str, JobInfo]:
        """Return the known facts of jobs, by the given names or ids."""

    def cancel(self, ids: Sequence[str]) -> None:
        """End jobs; jobs that have already ended raise no error."""

    def cancel_by_name(self, name: str) -> None:
        """End every job of the user with this name."""

    def bad_nodes(self, nodes: Sequence[str]) -> Mapping[str, str]:
        """Return those of these nodes that are down, drained, failing or silent, with the reasons."""
