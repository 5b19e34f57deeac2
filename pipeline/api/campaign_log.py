"""The log of a campaign: its journal in words, and the output of programs."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gfm_pipeline.campaign.events import DriverEnded, Event, from_entry
from gfm_pipeline.campaign.journal import Entry, read
from gfm_pipeline.campaign.paths import CampaignPaths
from gfm_pipeline.campaign.stage_state import StageState, TaskState, TaskStatus
from gfm_pipeline.campaign.state import CampaignState, load_state
from gfm_pipeline.core.contracts.task import PROGRESS_FILE
from gfm_pipeline.core.errors import ConfigError
from gfm_pipeline.core.explain import suggestion
from gfm_pipeline.report.build import driver_standing
from gfm_pipeline.report.progress import describe

_STYLE = re.compile("\x1b\\[[0-9;]*m")  # colours of the progress line
POLL_SECONDS = 0.5


@dataclass(frozen=True)
class LogLine:
    """One line: its Unix time (None for output of programs), its origin, and its text."""

    time: float | None
    origin: str
    text: str


class CampaignLog:
    """Reads a campaign's journal from the last position, and describes the events in words.

    Parameters
    ----------
    paths
        The campaign.
    """

    def __init__(self, paths: CampaignPaths) -> None:
        self.paths = paths
        self.state = CampaignState()
        self._next = 0

    def new_lines(self) -> Iterator[LogLine]:
        """Yield one line per event of interest since the last call.

        Raises
        ------
        IntegrityError
            When the journal is damaged.
        """
        for entry in read(self.paths.journal):
            if entry.n < self._next:
                continue
            self._next = entry.n + 1
            event = self._applied(entry)
            stage = self.state.stages.get(getattr(event, "key", ""))
            for text in _words(event, self.state).splitlines():
                yield LogLine(entry.t, "" if stage is None else stage.stage, text)

    def driver_lives(self) -> bool:
        """Return whether more lines may follow."""
        return driver_standing(self.paths, self.state)[0]

    def _applied(self, entry: Entry) -> Event:
        try:
            event = from_entry(entry.kind, entry.data)
            self.state.apply(event, entry.t)
        except (ValueError, KeyError, TypeError, AttributeError):
            load_state(self.paths.journal)  # reports the fault, with its line
            raise
        return event


class TaskLog:
    """Reads the new output of a task's newest attempt, or of a given attempt.

    Parameters
    ----------
    paths
        The campaign.
    task
        Its name, or ``stage/name``.
    attempt
        Number of the attempt; None: the newest.

    Raises
    ------
    ConfigError
        When there is no such task or attempt.
    """

    def __init__(self, paths: CampaignPaths, task: str, attempt: int | None = None) -> None:
        self.paths, self._wanted, self._attempt = paths, task, attempt
        self.stage, self.task = self._find()
        self._at: dict[Path, int] = {}

    @property
    def folder(self) -> Path:
        """The folder of the attempt."""
        number = self._attempt or max(1, self.task.attempt)
        return self.paths.stage(self.stage.stage, self.stage.key).attempt(self.task.name, number)

    def files(self, *, parts: bool) -> list[Path]:
        """Return progress and logs of the program and its ranks; ``parts``: also the newest parts of long logs."""
        logs = [p for p in self.folder.rglob("*.log*") if parts or p.suffix == ".log"]
        return [self.folder / PROGRESS_FILE, *sorted(logs)]

    def new_lines(self, *, parts: bool = False) -> Iterator[LogLine]:
        """Yield the complete new lines since the last call."""
        for file in [file for file in self.files(parts=parts) if file.is_file()]:
            with open(file, "rb") as stream:
                stream.seek(self._at.get(file, 0))
                data = stream.read()
            whole = data if self.ended() else data[: data.rfind(b"\n") + 1]
            self._at[file] = self._at.get(file, 0) + len(whole)
            for line in whole.decode("utf-8", "replace").splitlines():
                yield LogLine(None, str(file.relative_to(self.folder)), line)

    def refresh(self) -> None:
        """Read the state of the task again."""
        self.stage, self.task = self._find()

    def ended(self) -> bool:
        """Return whether the attempt has ended, so that no output follows."""
        return self._attempt not in (None, self.task.attempt) or self.task.status is not TaskStatus.RUNNING

    def summary(self) -> str:
        """Return a sentence about the attempt's course."""
        number = self._attempt or max(1, self.task.attempt)
        past = next((a for a in self.task.history if a.number == number), None)
        how = str(self.task.status) if past is None else f"{past.outcome}{f': {past.reason}' if past.reason else ''}"
        return f"{self.stage.stage}/{self.task.name}, attempt {number}: {how}; {self.folder}"

    def _find(self) -> tuple[StageState, TaskState]:
        state = load_state(self.paths.journal)
        stage_name, _, name = self._wanted.rpartition("/")
        found = [
            (stage, task) for stage, task in state.all_tasks() if task.name == name and stage_name in ("", stage.stage)
        ]
        current = [pair for pair in found if state.current.get(pair[0].stage) == pair[0].key] or found
        if not current:
            names = [f"{stage.stage}/{task.name}" for stage, task in state.all_tasks()]
            known = suggestion(name, [n.rpartition("/")[2] for n in names])
            hint = f"{known}Its tasks: {', '.join(names[:8])}{' ...' if len(names) > 8 else ''}."
            raise ConfigError(
                f"The campaign has no task {self._wanted!r}.", hint if names else "No task has begun yet."
            )
        stages = {stage.stage for stage, _ in current}
        if len(stages) > 1:
            raise ConfigError(
                f"Several stages have a task {name!r}: {', '.join(sorted(stages))}.",
                f"Say which one, e.g. --task {min(stages)}/{name}.",
            )
        stage, task = current[-1]
        if self._attempt is not None and not 1 <= self._attempt <= task.attempt:
            raise ConfigError(
                f"{name} has no attempt {self._attempt}.", f"It has {task.attempt}: give a number from 1 to that."
            )
        return stage, task


def follow(log: CampaignLog | TaskLog) -> Iterator[LogLine]:
    """Yield lines as they arrive, until the end."""
    while True:
        if isinstance(log, TaskLog):
            log.refresh()
            more = not log.ended()
        else:
            more = log.driver_lives() if log.state.drivers else True
        yield from log.new_lines()
        if not more:
            return
        time.sleep(POLL_SECONDS)


def _words(event: Event, state: CampaignState) -> str:
    if isinstance(event, DriverEnded):
        return f"Driver ended: {event.outcome}"
    return _STYLE.sub("", describe(event, state))
