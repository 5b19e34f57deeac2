"""Events of the batch jobs of a campaign."""

from __future__ import annotations

from dataclasses import dataclass

from gfm_pipeline.core.strenum import StrEnum


class JobRole(StrEnum):
    """Purpose of a batch job."""

    DRIVER = "driver"  # it drives the campaign on its own nodes
    BLOCK = "block"  # it lends its nodes to a driver elsewhere


@dataclass(frozen=True)
class JobIntended:
    """The driver is about to submit a batch job under a unique name, which the next driver can look up.

    ``after`` is the ID of the previous job in a chain; ``system`` and ``cluster`` name the batch system.
    Journals of earlier versions lack all three.
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
    """The batch system accepted the job and gave it an ID."""

    name: str
    job: str


@dataclass(frozen=True)
class JobEnergy:
    """The energy (J) that the batch system accounted for an ended job, on all of its nodes."""

    name: str
    joules: float
    source: str


@dataclass(frozen=True)
class JobEnded:
    """The job has ended, or never existed."""

    name: str
    reason: str
