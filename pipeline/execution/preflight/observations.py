"""Observations of the check of a machine: the files in its folder, and one record of all of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from gfm_pipeline.apps.runtime.launcher_probe import VIEWS_FOLDER, LauncherView
from gfm_pipeline.core.contracts.preflight import OBSERVATIONS_FOLDER, PreflightResult, RankObservation
from gfm_pipeline.core.contracts.task import ERROR_FILE, EXIT_FILE, RESULT_FILE, ErrorRecord, ExitRecord
from gfm_pipeline.core.errors import IntegrityError
from gfm_pipeline.core.records import read_record

PLAN_FILE = "check.json"
HEAD_FILE = "head.json"
PING_FILE, PONG_FILE = "ping", "pong.json"
DONE_FILE = "done"
STEP_NOW = "now"  # the name of the launch that runs
VIEW, RANKS, SPAWN = "look", "ranks", "spawn"  # the launches, and their folders
LAUNCHES = {VIEW: "what the launch line gives", RANKS: "ranks over all nodes", SPAWN: "ranks of one node"}
TAIL_BYTES = 4000

T = TypeVar("T")


@dataclass(frozen=True)
class CheckPlan:
    """Input of the job: the site as plain data, and the folder for the test of the file system."""

    site: dict[str, Any]
    nodes: int


@dataclass(frozen=True)
class HeadNodeObservation:
    """Observations of the job's first process: its node, and the node's network interfaces."""

    nodes: tuple[str, ...]
    host: str
    executable: str
    interfaces: tuple[str, ...]


@dataclass(frozen=True)
class Pong:
    """The answer to the login node: the time on the job's first node (s since 1970)."""

    time: float


@dataclass(frozen=True)
class Skew:
    """How far the clock of the job's first node is ahead of the login node's (s), plus or minus ``give``."""

    seconds: float
    give: float


@dataclass(frozen=True)
class LaunchObservation:
    """How one launch ended; ``error`` and ``hint`` come from a rank, ``said`` is the end of standard error."""

    code: int | None = None
    timed_out: bool = False
    error: str = ""
    hint: str = ""
    output: str = ""

    @property
    def ended_well(self) -> bool:
        """Whether the whole launch worked."""
        return self.code == 0

    @property
    def why(self) -> str:
        """Why the launch failed, as a sentence without the full stop."""
        if self.error:
            return self.error.rstrip(".")
        if self.code is None:
            return "it was not started"
        return (
            "it took too long" if self.timed_out else f"it ended with exit code {self.code}"
        ) + f"{': ' if self.output else ''}{self.output}"


@dataclass(frozen=True)
class JobObservations:
    """Everything a check found.

    Parameters
    ----------
    head
        None: the job ended before it started Python.
    said
        The last line the job printed.
    launches
        By their names.
    looks
        Ranks, as the launch line starts them.
    ranks, spawned
        Ranks of the launch over all nodes, and of the one within the first node.
    result
        What all ranks found together.
    skew
        Between the login node and the job; None if unknown.
    """

    head: HeadNodeObservation | None = None
    output: str = ""
    launches: dict[str, LaunchObservation] = field(default_factory=dict)
    views: tuple[LauncherView, ...] = ()
    ranks: tuple[RankObservation, ...] = ()
    spawned: tuple[RankObservation, ...] = ()
    result: PreflightResult | None = None
    skew: Skew | None = None


def read_observations(folder: Path, output: Path, skew: Skew | None) -> JobObservations:
    """Return the contents of the files of a check; missing or damaged files count as not observed."""
    launches = {name: _launch(folder / name) for name in LAUNCHES if (folder / name).is_dir()}
    return JobObservations(
        _read(HeadNodeObservation, folder / HEAD_FILE),
        last_line(output),
        launches,
        _all(LauncherView, folder / VIEW / VIEWS_FOLDER),
        tuple(sorted(_all(RankObservation, folder / RANKS / OBSERVATIONS_FOLDER), key=lambda rank: rank.rank)),
        tuple(sorted(_all(RankObservation, folder / SPAWN / OBSERVATIONS_FOLDER), key=lambda rank: rank.rank)),
        _read(PreflightResult, folder / RANKS / RESULT_FILE),
        skew,
    )


def _launch(folder: Path) -> LaunchObservation:
    ended = _read(ExitRecord, folder / EXIT_FILE)
    error = _read(ErrorRecord, folder / ERROR_FILE)
    return LaunchObservation(
        None if ended is None else ended.code,
        ended is not None and ended.timed_out,
        "" if error is None else error.message,
        "" if error is None else error.hint or "",
        last_line(folder / "stderr.log"),
    )


def last_line(path: Path) -> str:
    """Return the last non-empty line of a text file; '' if there is none."""
    try:
        with open(path, "rb") as stream:
            stream.seek(0, 2)
            stream.seek(max(0, stream.tell() - TAIL_BYTES))
            text = stream.read().decode(errors="replace")
    except OSError:
        return ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    own = [line for line in lines if line.startswith("gfm-pipeline: ")]
    return (own or lines or [""])[-1].removeprefix("gfm-pipeline: ")


def _read(kind: type[T], path: Path) -> T | None:
    try:
        return read_record(kind, path)
    except (OSError, IntegrityError):
        return None


def _all(kind: type[T], folder: Path) -> tuple[T, ...]:
    if not folder.is_dir():
        return ()
    found = [_read(kind, path) for path in sorted(folder.glob("[!.]*.json"))]
    return tuple(one for one in found if one is not None)
