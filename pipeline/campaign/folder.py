"""Opens a campaign folder for a driver: creates it on first use, locks it, and folds its journal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gfm_pipeline.campaign.events import CampaignCreated, to_entry
from gfm_pipeline.campaign.holder import NO_JOB, Holder, JobIdentity
from gfm_pipeline.campaign.journal import SCHEMA_VERSION, Journal
from gfm_pipeline.campaign.lock import CampaignLock, JobEndedFn, never_ended
from gfm_pipeline.campaign.paths import CampaignPaths
from gfm_pipeline.campaign.state import CampaignState, load_state
from gfm_pipeline.core.clock import MACHINE, Clock
from gfm_pipeline.core.errors import ConfigError, IntegrityError
from gfm_pipeline.core.publish import storage_errors
from gfm_pipeline.core.version import __version__

PRIVATE = 0o700  # of a new campaign's folder; `chmod` it to share it


@dataclass(frozen=True)
class OpenCampaign:
    """A campaign that this process drives."""

    paths: CampaignPaths
    journal: Journal
    state: CampaignState
    dead_driver: Holder | None


def check_name(paths: CampaignPaths, name: str, *, simulated: bool = False) -> CampaignState | None:
    """Return the state of an existing campaign, or None for a folder that is free for a new campaign.

    ``simulated``: the folder is for a simulation, which never shares a folder with a campaign.

    Raises
    ------
    ConfigError
        When the folder belongs to another workflow, or is not a campaign.
    IntegrityError
        When the journal is damaged or empty.
    """
    root = paths.root
    if not root.exists():
        return None
    if not root.is_dir():
        raise ConfigError(f"{root} is a file, not a campaign folder.", "Choose another place with --campaign.")
    # Possible files of the first driver before its first event.
    others = sorted(
        p.name for p in root.iterdir() if p != paths.journal and not p.name.lstrip(".").startswith(paths.lock.name)
    )
    if not paths.journal.exists():
        if not others:
            return None
        if (root / "stages").is_dir():
            raise IntegrityError(
                f"{paths.journal} is missing, though {root} holds stages of a campaign.",
                "Restore it from a backup, or choose another folder with --campaign.",
            )
        raise ConfigError(
            f"{root} holds files but no campaign ({', '.join(others[:3])}).",
            "Choose an empty or new folder with --campaign.",
        )
    state = load_state(paths.journal)
    if state.created is None:
        if not others:
            return None
        raise IntegrityError(
            f"{paths.journal} holds no event, though {root} holds a campaign's files ({', '.join(others[:3])}).",
            "Restore it from a backup, or choose another folder with --campaign.",
        )
    if state.created.name != name:
        raise ConfigError(
            f"{root} belongs to the workflow {state.created.name!r}, not to {name!r}.",
            "Choose another folder with --campaign, or give the workflow its old name back.",
        )
    if state.created.simulated is not simulated:
        what = "a simulation, whose results are made up" if state.created.simulated else "a campaign, no simulation"
        raise ConfigError(f"{root} holds {what}.", "Choose another folder with --campaign.")
    return state


@contextmanager
def driving(
    root: Path,
    name: str,
    job: JobIdentity = NO_JOB,
    job_ended: JobEndedFn = never_ended,
    simulation: Clock | None = None,
    *,
    durable: bool | None = None,
) -> Iterator[OpenCampaign]:
    """Lock and open the campaign in ``root``; create a new campaign's folder with access for its owner only.

    ``job`` and ``job_ended`` are as in `CampaignLock`. ``simulation`` is the clock of a simulation, used by its
    journal. ``durable``: whether the journal is synced to the disk; None: yes, except in simulations.
    """
    paths = CampaignPaths(root.resolve())
    check_name(paths, name, simulated=simulation is not None)
    with storage_errors(paths.root):
        paths.root.parent.mkdir(parents=True, exist_ok=True)
        paths.root.mkdir(mode=PRIVATE, exist_ok=True)
    clock, durable = simulation or MACHINE, simulation is None if durable is None else durable
    with (
        CampaignLock(paths.lock, job, job_ended) as lock,
        Journal(paths.journal, lock.check if durable else None, clock, durable=durable) as journal,
    ):
        state = load_state(paths.journal)
        if state.created is None:
            created = CampaignCreated(SCHEMA_VERSION, name, __version__, simulated=simulation is not None)
            entry = journal.append(*to_entry(created))
            state.apply(created, entry.t)
        yield OpenCampaign(paths, journal, state, lock.replaced)
