"""Events of the batch jobs of a campaign."""

from __future__ import annotations

from dataclasses import dataclass

from gfm_pipeline.core.strenum import StrEnum


class JobRole(StrEnum):
    """What a batch job is for."""

    DRIVER = "driver"  # it drives the campaign on its own nodes
    BLOCK = "block"  # it lends its nodes to a driver elsewhere


@dataclass(frozen=True)
class JobIntended:
    """A batch job is about to be submitted under a name that is used once: the next driver can look it up.

    ``after`` is the number of the job it follows in a chain; ``system`` and ``cluster`` say which batch system gets it.
    Journals of earlier versions have none of the three.
    """

    name: str
    role: JobRole
    nodes: int
    hours: float
    queue: str
    after: str = ""
    system: str = ""
    cluster: str = ""


@dataclass(frozen=True)
class JobSubmitted:
    """The batch system took the job and gave it a number."""

    name: str
    job: str


@dataclass(frozen=True)
class JobEnergy:
    """What the batch system accounted for a job that is over, on all of its nodes (J)."""

    name: str
    joules: float
    source: str


@dataclass(frozen=True)
class JobEnded:
    """The job is over, or was never there."""

    name: str
    reason: str
