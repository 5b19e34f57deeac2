"""Records for answers of commands, where no other part of the program has a suitable record."""

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
    """What the command did, one sentence per action."""

    sentences: tuple[str, ...]


@dataclass(frozen=True)
class Listed:
    """Campaigns below a folder, the one with the newest event first."""

    folder: str
    campaigns: tuple[CampaignSummary, ...]


@dataclass(frozen=True)
class Cleaned:
    """Removable or removed files of a campaign: their ``bytes``, and ``campaign_bytes`` of the campaign before."""

    campaign: str
    removed: bool
    bytes: int
    campaign_bytes: int
    kinds: tuple[Removable, ...]


@dataclass(frozen=True)
class Validated:
    """A valid workflow: its sources, its site, and the number of tasks that the site runs at a time."""

    workflow: str
    name: str
    sources: tuple[str, ...]
    site: str
    slots: int


@dataclass(frozen=True)
class DraftedSource:
    """A source of a new workflow: its settings, the numbers of read and usable records, and the splits."""

    name: str
    settings: dict[str, Any]
    read: int
    usable: int
    elements: tuple[str, ...]
    splits: tuple[SplitPreview, ...]


@dataclass(frozen=True)
class Drafted:
    """A new workflow file."""

    workflow: str
    name: str
    sources: tuple[DraftedSource, ...]


@dataclass(frozen=True)
class ArtefactState:
    """One artefact: its state, and its numbers of files and bytes (None if it is gone or damaged)."""

    stage: str
    task: str
    folder: str
    files: int | None
    bytes: int | None
    state: str


@dataclass(frozen=True)
class Verified:
    """Artefacts of a campaign. ``digests``: every byte was read; ``fault``: the fault of the first damaged one."""

    campaign: str
    digests: bool
    fault: str | None
    artefacts: tuple[ArtefactState, ...]


@dataclass(frozen=True)
class StagesExplained:
    """Why a stage would run or not, then why the stage it waits for would. ``gone``: missing outputs to make again."""

    stages: tuple[Explanation, ...]
    gone: tuple[str, ...]


@dataclass(frozen=True)
class Replayed:
    """The number of decisions of each kind that equal the recorded ones."""

    campaign: str
    decisions: dict[str, int]


@dataclass(frozen=True)
class Reported:
    """The written files."""

    html: str
    markdown: str
    csv: str | None


@dataclass(frozen=True)
class Unlocked:
    """The former holder of the removed lock; None: there was no lock."""

    campaign: str
    holder: str | None


@dataclass(frozen=True)
class SitesListed:
    """Sites by name, with descriptions."""

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
    """The results of a check of a site; its job ran in ``folder`` (None if the folder was removed)."""

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
    """An intact dataset: all files are as published."""

    name: str
    files: int
    bytes: int
    structures: int
    content: str
