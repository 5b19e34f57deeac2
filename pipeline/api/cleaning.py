"""Removes files of a campaign's folder that are safe to remove.

Each kind of files is declared once, with the later cost of its removal. No kind includes files that resuming, reporting
or exporting the campaign needs: outputs of finished stages, inputs of unfinished stages, progress and logs of the
attempts in the report, and the targets of the campaign's links.
"""

from __future__ import annotations

import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from gfm_pipeline.api.listing import bytes_below
from gfm_pipeline.campaign.lock import CampaignLock
from gfm_pipeline.campaign.paths import CampaignPaths
from gfm_pipeline.campaign.state import CampaignState, load_state
from gfm_pipeline.core.errors import CampaignLocked
from gfm_pipeline.core.publish import storage_errors
from gfm_pipeline.engine.decisions.artefacts import Artefact, Role, artefacts
from gfm_pipeline.engine.tasks.orphans import attempts_left

TEMPORARY = re.compile(r"\..+\.tmp-[0-9a-f]{8}")  # names of unfinished folders of `publishing`


@dataclass(frozen=True)
class _Look:
    """A snapshot of a campaign: its artefacts, and the targets of its links."""

    paths: CampaignPaths
    state: CampaignState
    artefacts: tuple[Artefact, ...]
    linked: frozenset[Path]

    def needed(self) -> frozenset[Path]:
        """Return the folders that outputs and unfinished stages need."""
        return frozenset(a.folder.resolve() for a in self.artefacts if a.role in (Role.OUTPUT, Role.NEEDED))


@dataclass(frozen=True)
class Kind:
    """A kind of removable files: its name, the later cost of its removal, and its folders."""

    name: str
    costs: str
    find: Callable[[_Look], Iterator[Path]]


@dataclass(frozen=True)
class Removable:
    """The folders of one kind, and the bytes that their removal frees."""

    kind: str
    costs: str
    folders: tuple[str, ...]
    bytes: int


def _unfinished(look: _Look) -> Iterator[Path]:
    for folder, names, _ in os.walk(look.paths.root / "stages"):
        for name in [name for name in names if TEMPORARY.fullmatch(name)]:
            names.remove(name)
            yield Path(folder) / name


def _superseded(look: _Look) -> Iterator[Path]:
    for stage in look.state.stages.values():
        if look.state.current.get(stage.stage) == stage.key:
            continue
        root = look.paths.stage(stage.stage, stage.key).root
        resolved = root.resolve()
        if not root.is_dir():
            continue
        if not any(resolved in target.parents for target in look.linked):
            yield root
            continue
        mine = (a.folder for a in look.artefacts if a.key == stage.key and a.folder.is_dir())
        yield from (folder for folder in mine if not folder.is_symlink() and folder.resolve() not in look.linked)


def _steps(look: _Look) -> Iterator[Path]:
    needed = look.needed()
    for artefact in look.artefacts:
        folder = artefact.folder
        here = artefact.role is Role.STEP and folder.is_dir() and not folder.is_symlink()
        if here and folder.resolve() not in needed | look.linked:
            yield folder


def _parsl_logs(look: _Look) -> Iterator[Path]:
    runs = sorted(p for p in look.paths.parsl.glob("[0-9][0-9][0-9]*") if p.is_dir() and not p.is_symlink())
    yield from runs[:-1]


KINDS = (
    Kind("superseded", "time, if you set the old settings again: those stages run anew", _superseded),
    Kind("unfinished", "nothing: what a killed program had begun to publish", _unfinished),
    Kind("steps", "time, if you ask for more members or longer rungs: what they start from is made anew", _steps),
    Kind("parsl-logs", "nothing: Parsl's own logs of earlier runs", _parsl_logs),
)


def removable(paths: CampaignPaths, only: Iterable[str] = ()) -> tuple[Removable, ...]:
    """Return the removable files of a campaign, one record per kind that has any.

    Parameters
    ----------
    paths
        The campaign.
    only
        Names of the kinds; empty: all.

    Raises
    ------
    IntegrityError
        When its journal is damaged: then it is unknown what the campaign needs.
    """
    state = load_state(paths.journal)
    look = _Look(paths, state, tuple(artefacts(paths, state)), _links(paths.root / "stages"))
    chosen = frozenset(only) or frozenset(kind.name for kind in KINDS)
    found, known = [], set[Path]()
    for kind in KINDS:
        folders = [f for f in kind.find(look) if not known & {f, *f.parents}] if kind.name in chosen else []
        known |= set(folders)
        if folders:
            size = sum(map(bytes_below, folders))
            found.append(Removable(kind.name, kind.costs, tuple(map(str, folders)), size))
    return tuple(found)


def remove(paths: CampaignPaths, only: Iterable[str] = ()) -> tuple[Removable, ...]:
    """Remove the removable files under the campaign's lock, and return their records.

    A folder is first renamed to the name of an unfinished one, so after an interruption every folder is complete or
    gone.

    Raises
    ------
    CampaignLocked
        While a driver holds the campaign, or its tasks run.
    """
    with CampaignLock(paths.lock):
        if left := attempts_left(paths):
            raise CampaignLocked(
                f"Tasks of {paths.root} still run ({left[0].parent.name}).", f"First: gfm-pipeline cancel {paths.root}"
            )
        found = removable(paths, only)
        for folder in [Path(name) for one in found for name in one.folders]:
            with storage_errors(folder):
                doomed = folder
                if not TEMPORARY.fullmatch(folder.name):
                    doomed = folder.with_name(f".{folder.name}.tmp-{uuid.uuid4().hex[:8]}")
                    folder.rename(doomed)
                shutil.rmtree(doomed)
    return found


def _links(stages: Path) -> frozenset[Path]:
    """Return the targets of symbolic links below ``stages``."""
    found = set()
    for folder, names, files in os.walk(stages):
        found |= {(Path(folder) / n).resolve() for n in [*names, *files] if (Path(folder) / n).is_symlink()}
    return frozenset(found)
