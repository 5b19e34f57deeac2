"""Progress for users, on standard error: one line per change of state, and regular lines in between."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

import click

from gfm_pipeline.campaign import events as ev
from gfm_pipeline.campaign.events import AttemptOutcome, Event
from gfm_pipeline.campaign.paths import CampaignPaths
from gfm_pipeline.campaign.stage_state import TaskStatus
from gfm_pipeline.campaign.state import CampaignState
from gfm_pipeline.engine.stages.table import stage_named
from gfm_pipeline.engine.tasks.task_files import error_table, newest_progress

QUIET_SECONDS = 30.0  # longest silence
TERMINAL_SECONDS = 1.0  # refresh of the status line on a terminal
SHOWN = 6  # running tasks per line


class ProgressPrinter:
    """Prints events when they are recorded; on a terminal, a last line shows the running tasks."""

    def __init__(self, paths: CampaignPaths, *, quiet: bool = False) -> None:
        self.paths = paths
        self.quiet = quiet
        self.terminal = sys.stderr.isatty() and not quiet
        self._started = time.monotonic()
        self._last = time.monotonic()
        self._line = ""

    def notify(self, text: str, *, plain: bool = False) -> None:
        """Print a line, with the time since the start at its beginning unless ``plain``."""
        if self.quiet and not plain:
            return
        self._clear()
        seconds = int(time.monotonic() - self._started)
        stamp = "" if plain else click.style(f"[{seconds // 60:3d}:{seconds % 60:02d}] ", dim=True)
        click.echo(stamp + text, err=True)
        self._last = time.monotonic()

    def event(self, event: Event, state: CampaignState) -> None:
        """Print an event, if it is of interest."""
        text = describe(event, state)
        if text:
            self.notify("\n".join([text, *(f"    {line}" for line in self._table(event, state))]))

    def _table(self, event: Event, state: CampaignState) -> list[str]:
        """Return the lines of the table that the program of a failed attempt wrote."""
        if not isinstance(event, ev.TaskEnded) or event.outcome is AttemptOutcome.OK:
            return []
        folder = self.paths.stage(state.stages[event.key].stage, event.key).attempt(event.task, event.attempt)
        return error_table(folder).splitlines()

    def tick(self, state: CampaignState) -> None:
        """Refresh the status line, or print a line after a long silence."""
        silence = time.monotonic() - self._last
        if self.quiet or silence < (TERMINAL_SECONDS if self.terminal else QUIET_SECONDS):
            return
        text = now_running(state, self.paths)
        if not text:
            return
        if self.terminal:
            self._clear()
            self._line = text[: shutil.get_terminal_size().columns - 1]
            click.echo(click.style(self._line, dim=True), nl=False, err=True)
            self._last = time.monotonic()
        else:
            self.notify(text)

    def close(self) -> None:
        """Clear the status line."""
        self._clear()

    def _clear(self) -> None:
        if self._line:
            click.echo("\r\033[K", nl=False, err=True)
            self._line = ""


def now_running(state: CampaignState, paths: CampaignPaths) -> str:
    """Return one line with the running tasks, and the progress of each from its progress file."""
    parts = []
    for key in state.current.values():
        stage = state.stages[key]
        running = [t for t in stage.tasks.values() if t.status is TaskStatus.RUNNING]
        if running:
            done = sum(t.status is TaskStatus.DONE for t in stage.tasks.values())
            folders = paths.stage(stage.stage, stage.key)
            shown = ", ".join(f"{t.name}{_how_far(folders.attempt(t.name, t.attempt))}" for t in running[:SHOWN])
            more = f" and {len(running) - SHOWN} more" if len(running) > SHOWN else ""
            parts.append(f"{stage.stage}: {done} tasks done, running {shown}{more}")
    return "; ".join(parts)


def _how_far(attempt: Path) -> str:
    """Return the newest progress of an attempt in brackets, or '' without progress."""
    found = newest_progress(attempt)
    words = []
    if "graphs" in found:
        words.append(f"{found['graphs']:,} graphs")
    if found.get("objective") is not None:
        error = found.get("objective_error")
        words.append(f"objective {found['objective']:.4f}" + ("" if error is None else f" ± {error:.4f}"))
    if found.get("phase") == "anneal":
        words.append("annealing")
    if found.get("total"):
        words.append(f"{found.get('done', 0):,} of {found['total']:,}")
    return f" ({', '.join(words)})" if words else ""


def _wave(number: int, upto: int | None) -> str:
    """Return the name of a group of candidates from one proposal; ``upto`` as in `WaveProposed`."""
    return f"wave {number}" if upto is None else f"proposal {number}"


def describe(event: Event, state: CampaignState) -> str:
    """Return the description of an event for users, or ''."""
    match event:
        case ev.DriverStarted(host, pid, site, _, slots):
            return f"Site {site}: {slots} tasks at a time (driver: pid {pid} on {host})"
        case ev.StageOpened(stage):
            return click.style(f"{str(stage).capitalize()}", bold=True)
        case ev.StageDone(key):
            stage_state = state.stages[key]
            seconds = (stage_state.ended or 0.0) - stage_state.opened
            return f"{str(stage_state.stage).capitalize()} done in {duration(seconds)}"
        case ev.StageFailedEvent(_, reason):
            return click.style(f"Failed: {reason}", fg="red")
        case ev.WaveProposed(_, wave, candidates, origin, told, upto):
            names = ", ".join(f"{c.name} {c.settings['algorithm']}" for c in candidates)
            based = f", told {told} results" if told else ""
            return f"  {_wave(wave, upto)} ({origin}{based}): {names}"
        case ev.RungDecided(key, wave, rung, promoted, stopped):
            proposed = state.stages[key].waves.get(wave)
            text = f"  {_wave(wave, None if proposed is None else proposed.upto)}, rung {rung}: "
            on = ", ".join(promoted) or "none"
            return text + f"{on} train on" + (f"; {', '.join(stopped)} stopped" if stopped else "")
        case ev.EnsembleRanked(_, weights, score):
            if not weights:
                return "  too few candidates have stored errors: the members are the best of the highest rung"
            shares = ", ".join(f"{name} {weight:.0%}" for name, weight in weights.items())
            return f"  ranked by stored errors: {shares}; negative log-likelihood {score:.4f}"
        case ev.MembersSelected(_, members):
            return "  ensemble: " + ", ".join(f"{m.name} = {m.candidate} ({m.settings['algorithm']})" for m in members)
        case ev.TaskEnded():
            return _task(event, state)
        case ev.LauncherRestarted(reason):
            return click.style(f"  {reason}; it was started anew", fg="yellow")
        case ev.JobSubmitted(name, job):
            intent = state.jobs[name].intent
            return f"  job {job} ({name}): {intent.nodes} nodes, {intent.hours:g} h, queue {intent.queue}"
        case ev.JobEnded(name, reason):
            return f"  job {state.jobs[name].job or name}: {reason}"
        case ev.NodeExcluded(node, reason):
            return click.style(f"  node {node} gets no more tasks: {reason}", fg="yellow")
        case ev.SchedulerSilent(reason):
            text = f"  waiting for the batch system: {reason}" if reason else "  the batch system answers again"
            return click.style(text, fg="yellow")
        case ev.Suspended(what, None):
            text = f"  {_who(what, state)} is suspended by the batch system; its tasks wait, and no attempt is used up"
            return click.style(text, fg="yellow")
        case ev.Suspended(what, seconds):
            text = f"  {_who(what, state)} stood still for {seconds:.0f} s and goes on; no attempt is used up"
            return click.style(text, fg="yellow")
        case ev.ArtefactLost(_, task, reason):
            return click.style(f"  {task}: {reason}; it is made again", fg="yellow")
    return ""


def _who(what: str, state: CampaignState) -> str:
    return "the driver" if what == ev.DRIVER else f"job {state.jobs[what].job if what in state.jobs else what}"


def _task(event: ev.TaskEnded, state: CampaignState) -> str:
    if event.outcome is AttemptOutcome.OK:
        result, warnings = _result(event, state)
        text = f"  {event.task}: {result} in {duration(event.seconds)}"
        text += " (finished before the driver died, adopted)" if event.adopted else ""
        return "\n".join([text, *(click.style(f"    warning: {warning}", fg="yellow") for warning in warnings)])
    if event.outcome is AttemptOutcome.DIVERGED:
        return f"  {event.task}: diverged after {duration(event.seconds)}"
    if event.outcome is AttemptOutcome.PREEMPTED and event.action is not ev.Action.GIVE_UP:
        return f"  {event.task}: {event.reason}"
    what = f"{event.cause or event.outcome}; {event.action}" if event.action else str(event.outcome)
    return click.style(f"  {event.task}: attempt {event.attempt} failed ({what}): {event.reason}", fg="yellow")


def _result(event: ev.TaskEnded, state: CampaignState) -> tuple[str, list[str]]:
    """Return a description of a result, and its warnings; both come from its stage."""
    stage = state.stages[event.key]
    declared = stage_named(stage.stage)
    task = stage.tasks.get(event.task)
    if declared is None or task is None:
        return "done", []
    result = task.decoded(declared.program_of(event.task).result)
    return ("done", []) if result is None else (declared.describe_result(result), declared.warnings(result))


def duration(seconds: float) -> str:
    """Return a duration for users: 9 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
