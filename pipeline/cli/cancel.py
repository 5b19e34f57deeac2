"""The command that stops a campaign from another terminal, including all of its processes."""

from __future__ import annotations

import os
import shlex
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click

from gfm_pipeline.api.folders import existing
from gfm_pipeline.api.jobs import open_jobs
from gfm_pipeline.batch_systems.base import JobState
from gfm_pipeline.campaign.holder import Holder, is_dead
from gfm_pipeline.campaign.lock import UNLOCK, read_holder
from gfm_pipeline.campaign.paths import CampaignPaths
from gfm_pipeline.campaign.state import load_state
from gfm_pipeline.cli.options import campaign_argument
from gfm_pipeline.cli.support.amounts import Amount
from gfm_pipeline.cli.support.answered import Sentences
from gfm_pipeline.cli.support.answers import JSON, print_answer
from gfm_pipeline.core.errors import CampaignLocked, SchedulerUnavailable, StageFailed
from gfm_pipeline.core.publish import storage_errors
from gfm_pipeline.engine.tasks.orphans import attempts_left, end_all, names, wait_gone
from gfm_pipeline.execution.retry import retrying

AT_ONCE_SECONDS = 15.0  # wait for a driver after a request to stop at once
POLL_SECONDS = 0.2


@click.command()
@campaign_argument
@click.option("--now", is_flag=True, help="Do not wait for running trainings to save a checkpoint.")
@click.option(
    "--timeout",
    type=Amount(closed=True),
    default=180.0,
    show_default=True,
    metavar="SECONDS",
    help="Time to wait for the driver before it is killed.",
)
@JSON
def cancel(campaign: Path, now: bool, timeout: float, as_json: bool) -> None:
    """Stop the campaign in folder CAMPAIGN, and wait until all its processes have ended.

    A running driver stops as with Ctrl-C. A driver on another host reads the request from the campaign folder.
    The command cancels all batch jobs, waiting ones too, and ends processes that a dead driver left on this
    machine. No finished work is lost: `resume CAMPAIGN` continues.
    """
    paths = existing(campaign)
    sentences: list[str] = []
    notify: Callable[[str], None] = sentences.append if as_json else click.echo
    try:
        notify(_stop_driver(paths, now, timeout))
        left = _cancel_jobs(paths, notify)
        attempts, parsl = end_all(paths)
    finally:
        paths.cancel.unlink(missing_ok=True)
    if attempts or parsl:
        notify(f"Ended the remaining processes: tasks {names(attempts) or 'none'}; {parsl} processes of Parsl.")
    if not wait_gone(paths):
        raise StageFailed(
            f"Some processes of {campaign} cannot be ended: tasks {names(attempts_left(paths))}.",
            "They may wait for a disk; look again later with `gfm-pipeline cancel`.",
        )
    if left:
        raise SchedulerUnavailable(" ".join(left), f"Run this there: gfm-pipeline cancel {campaign}")
    again = shlex.join(["gfm-pipeline", "resume", str(campaign)])
    notify(f"Nothing of {campaign} runs on this machine. Go on with: {again}")
    if as_json:
        print_answer(Sentences(tuple(sentences)))


def _cancel_jobs(paths: CampaignPaths, notify: Callable[[str], None]) -> list[str]:
    """Cancel every batch job of the campaign without a known end, and name the jobs.

    Returns
    -------
    list
        One sentence per batch system whose jobs cannot be cancelled from here.
    """
    left, cancelled = [], []
    for jobs in open_jobs(paths, load_state(paths.journal)):
        scheduler = jobs.scheduler
        if scheduler is None:
            left.append(f"Job {jobs.described()} of {jobs.where()} cannot be cancelled from here: {jobs.why}.")
            continue
        before = retrying(partial(scheduler.jobs, list(jobs.records)), notify)
        for name in jobs.records:  # by name: this also finds a job whose ID was lost with its driver
            retrying(partial(scheduler.cancel_by_name, name), notify)
        after = jobs.query(notify)
        living = [info.id for info in after.values() if not info.state.has_ended]
        retrying(partial(scheduler.cancel, living), notify)  # including jobs that the first cancellation missed
        cancelled += [
            f"{info.id} ({name})"
            for name, info in after.items()
            if not before[name].state.has_ended and info.state is not JobState.VANISHED
        ]
    if cancelled:
        notify(f"Cancelled batch jobs: {', '.join(cancelled)}.")
    return left


def _stop_driver(paths: CampaignPaths, now: bool, timeout: float) -> str:
    """Stop the driver, if there is one, and describe the action."""
    found = read_holder(paths.lock)
    if found is None:
        return "No driver holds the campaign."
    holder, age = found
    if not holder.known:
        raise CampaignLocked(
            f"{paths.lock} is a lock of an unknown format, so its driver cannot be asked to stop.",
            f"Upgrade gfm-pipeline. {UNLOCK} {paths.root}",
        )
    who = f"pid {holder.pid} on {holder.host}"
    match is_dead(holder, age):
        case True:
            return f"Its driver ({who}) is dead."
        case False:
            return _stop_here(paths, holder, who, now, timeout)
    with storage_errors(paths.cancel):
        paths.cancel.touch()
    if not _wait(lambda: read_holder(paths.lock) is None, timeout):
        unlock = shlex.join(["gfm-pipeline", "unlock", str(paths.root)])
        raise CampaignLocked(
            f"The driver ({who}, heartbeat {age:.0f} s ago) has not stopped within {timeout:.0f} s.",
            f"Run cancel on {holder.host}; or, if that driver is certainly gone: {unlock}",
        )
    return f"The driver ({who}) stopped."


def _stop_here(paths: CampaignPaths, holder: Holder, who: str, now: bool, timeout: float) -> str:
    """Stop a running driver on this machine, by increasingly strong means."""

    def ended() -> bool:
        held = read_holder(paths.lock)
        return is_dead(holder) is True or held is None or held[0] != holder

    def request_cancel(number: signal.Signals) -> None:
        if is_dead(holder) is not False:
            return
        try:
            os.kill(holder.pid, number)
        except ProcessLookupError:
            return
        except PermissionError:  # another user's: use the folder; never both, or the signal counts as the second
            paths.cancel.touch()

    request_cancel(signal.SIGTERM)
    if not now and _wait(ended, timeout):
        _wait(lambda: is_dead(holder) is True, AT_ONCE_SECONDS)
        return f"The driver ({who}) stopped; running trainings saved a checkpoint."
    time.sleep(POLL_SECONDS)  # two signals at the same time would count as one
    request_cancel(signal.SIGTERM)
    if _wait(lambda: is_dead(holder) is True, AT_ONCE_SECONDS):
        return f"The driver ({who}) stopped at once."
    request_cancel(signal.SIGKILL)
    if _wait(lambda: is_dead(holder) is True, AT_ONCE_SECONDS):
        return f"The driver ({who}) did not answer and was killed."
    raise CampaignLocked(f"The driver ({who}) cannot be stopped by this user.", "Ask its owner to press Ctrl-C.")


def _wait(done: Callable[[], bool], seconds: float) -> bool:
    give_up = time.monotonic() + seconds
    while not done():
        if time.monotonic() > give_up:
            return False
        time.sleep(POLL_SECONDS)
    return True
