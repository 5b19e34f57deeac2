"""The records that commands answer with where no other part of the program has one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gfm_pipeline.api.cleaning import Removable
from gfm_pipeline.api.listing import CampaignSummary
from gfm_pipeline.core.contracts.ingest.preview import SplitPreview
from gfm_pipeline.core.contracts.layout import RecordLine
from gfm_pipeline.engine.decisions.explain import Explanation
from gfm_pipeline.execution.preflight.verdict import CheckResult


@dataclass(frozen=True)
class Sentences:
    """What was done, a sentence each."""

    sentences: tuple[str, ...]


@dataclass(frozen=True)
class Listed:
    """Campaigns below a folder, the one with the newest event first."""

    folder: str
    campaigns: tuple[CampaignSummary, ...]


@dataclass(frozen=True)
class Cleaned:
    """What may be removed of a campaign, or was: ``bytes`` of all that is named, of ``campaign_bytes`` before."""

    campaign: str
    removed: bool
    bytes: int
    campaign_bytes: int
    kinds: tuple[Removable, ...]


@dataclass(frozen=True)
class Validated:
    """A valid workflow: its sources, the site, and how many tasks that runs at a time."""

    workflow: str
    name: str
    sources: tuple[str, ...]
    site: str
    slots: int


@dataclass(frozen=True)
class DraftedSource:
    """A source of a workflow that was written: its settings, usable records of those read, and the splits."""

    name: str
    settings: dict[str, Any]
    read: int
    usable: int
    elements: tuple[str, ...]
    splits: tuple[SplitPreview, ...]


@dataclass(frozen=True)
class Drafted:
    """A workflow file that was written."""

    workflow: str
    name: str
    sources: tuple[DraftedSource, ...]


@dataclass(frozen=True)
class ArtefactState:
    """One artefact: how many files and bytes, and whether they are whole; None of what is gone or damaged."""

    stage: str
    task: str
    folder: str
    files: int | None
    bytes: int | None
    state: str


@dataclass(frozen=True)
class Verified:
    """Artefacts of a campaign. ``digests``: every byte was read; ``fault``: of the first that is not as it was."""

    campaign: str
    digests: bool
    fault: str | None
    artefacts: tuple[ArtefactState, ...]


@dataclass(frozen=True)
class StagesExplained:
    """Why a stage would run or would not; then the same of the stage it waits for. ``gone``: outputs to make again."""

    stages: tuple[Explanation, ...]
    gone: tuple[str, ...]


@dataclass(frozen=True)
class Replayed:
    """How many decisions of each kind came out as they are recorded."""

    campaign: str
    decisions: dict[str, int]


@dataclass(frozen=True)
class Reported:
    """The files that were written."""

    html: str
    markdown: str
    csv: str | None


@dataclass(frozen=True)
class Unlocked:
    """Who held the lock that was removed; None: there was none."""

    campaign: str
    holder: str | None


@dataclass(frozen=True)
class SitesListed:
    """Sites by name, with what each is."""

    sites: dict[str, str]


@dataclass(frozen=True)
class SiteShown:
    """A site, or a requested part of it, and where each value comes from.

    ``slots_here``: tasks at a time on this machine, where the site has no batch system.
    """

    name: str
    site: Any
    origins: dict[str, Any]
    slots_here: int | None = None


@dataclass(frozen=True)
class SiteChecked:
    """What a check of a site found; ``folder`` is where its job ran, None where that was removed."""

    site: str
    passed: bool
    nodes: int
    queue: str | None
    folder: str | None
    checks: tuple[CheckResult, ...]


@dataclass(frozen=True)
class Heads:
    """The first records of every split."""

    splits: dict[str, tuple[RecordLine, ...]]


@dataclass(frozen=True)
class DatasetVerified:
    """A dataset that is as it was published."""

    name: str
    files: int
    bytes: int
    structures: int
    content: str
