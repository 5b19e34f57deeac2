"""Removes files of a campaign's folder that are safe to remove.

Each kind of thing is declared once, with what its removal costs later. Nothing that resuming, reporting or exporting
the campaign rests on is of any kind: outputs of stages that are done, what unfinished stages go on from, progress and
logs of the attempts that the report shows, and every folder that a link of the campaign leads to.
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

TEMPORARY = re.compile(r"\..+\.tmp-[0-9a-f]{8}")  # as `publishing` names what it fills


@dataclass(frozen=True)
class _Look:
    """A campaign as it was looked at: its artefacts, and what its links lead to."""

    paths: CampaignPaths
    state: CampaignState
    artefacts: tuple[Artefact, ...]
    linked: frozenset[Path]

    def needed(self) -> frozenset[Path]:
        """Return the folders that outputs and unfinished stages rest on."""
        return frozenset(a.folder.resolve() for a in self.artefacts if a.role in (Role.OUTPUT, Role.NEEDED))


@dataclass(frozen=True)
class Kind:
    """A kind of what may be removed: its name, what its removal costs later, and the folders that are of it."""

    name: str
    costs: str
    find: Callable[[_Look], Iterator[Path]]


@dataclass(frozen=True)
class Removable:
    """The folders of one kind, and the bytes that removing them frees."""

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
    """Return what may be removed of a campaign, a record for each kind there is something of.

    Parameters
    ----------
    paths
        The campaign.
    only
        Names of the kinds to look for; none: all.

    Raises
    ------
    IntegrityError
        When its journal is damaged: what it needs is not known then.
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
    """Remove what may be removed, under the campaign's lock, and return it as it was found there.

    A folder is renamed first, to a name that says it is unfinished: whenever this ends, what is left is whole or gone.

    Raises
    ------
    CampaignLocked
        While a driver holds the campaign, or tasks of it run.
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
    """Return what symbolic links below ``stages`` lead to."""
    found = set()
    for folder, names, files in os.walk(stages):
        found |= {(Path(folder) / n).resolve() for n in [*names, *files] if (Path(folder) / n).is_symlink()}
    return frozenset(found)
