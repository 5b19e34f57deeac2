"""Driving a campaign to its end, in this process."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path

from gfm_pipeline.api.allocate import BatchEnvironment, batch_environment, nodes_of, write_resolved
from gfm_pipeline.api.budget_check import refuse_budget
from gfm_pipeline.api.jobs import following, is_cancelled, learn_energy, refuse_beside_jobs, stop_after_cancelled
from gfm_pipeline.api.run_request import ResolvedRun, RunRequest
from gfm_pipeline.api.source_sample import refuse_sampled_elements
from gfm_pipeline.api.stage_inputs import gone_note
from gfm_pipeline.api.stopping import Stopper, stopping
from gfm_pipeline.api.submission import submit_campaign
from gfm_pipeline.campaign.events import DriverEnded, DriverStarted
from gfm_pipeline.campaign.folder import OpenCampaign, check_name, driving
from gfm_pipeline.campaign.holder import this_process
from gfm_pipeline.campaign.identity import remember_digests
from gfm_pipeline.campaign.state import CampaignState
from gfm_pipeline.core.errors import GFMError, Stopped, StorageError
from gfm_pipeline.core.version import __version__
from gfm_pipeline.engine.chaos import Chaos, ChaosPlan
from gfm_pipeline.engine.decisions.decide import stage_names
from gfm_pipeline.engine.driver import Driver
from gfm_pipeline.report.progress import ProgressPrinter
from gfm_pipeline.sites.enums import DriverMode

Notify = Callable[[str], None]
Within = Callable[[Path], AbstractContextManager[None]]


def drive(
    run_request: RunRequest,
    notify: Notify,
    *,
    quiet: bool = False,
    warn: Notify | None = None,
    within: Within = lambda _: nullcontext(),
    chaos: ChaosPlan | None = None,
) -> Path | None:
    """Drive a campaign to its end, or submit a job for that if the site runs drivers in jobs.

    Parameters
    ----------
    run_request
        The workflow, the site, the folder, and overrides.
    notify
        Receives messages about waits, and about a submitted job.
    quiet
        Whether to hide progress until the end.
    warn
        Receives the message about the first signal; None: ``notify``.
    within
        Returns, for the campaign's folder, a context around all writes to this folder.
    chaos
        Deliberate faults of running tasks.

    Returns
    -------
    The campaign's folder; None when a job was submitted.

    Raises
    ------
    GFMError
        When the campaign cannot be run, a stage fails, or it is stopped.
    """
    # Check before any write, so that a mistake leaves no folder behind.
    request = run_request.resolve()
    around = batch_environment(request.site, notify)
    if request.site.driver.mode is DriverMode.RESIDENT and not around.job.number:
        submit_campaign(request, run_request, around, notify)
        return None
    root = request.context.paths.root
    state = check_name(request.context.paths, request.loaded.model.name) or CampaignState()
    refuse_budget(request, state)
    refuse_sampled_elements(request, state)
    with within(root):
        with (
            driving(root, request.loaded.model.name, around.job, around.job_ended) as campaign,
            stopping(request.site.driver.warning_signal if around.job.number else None, warn or notify) as stop,
        ):
            refuse_beside_jobs(campaign, around.job, notify)
            stop_after_cancelled(campaign, around)
            learn_energy(campaign, around)
            stop.at_once = lambda: campaign.paths.lock.unlink(missing_ok=True)
            remember_digests(request.digests, campaign.paths.digests)
            progress, handed_over = _campaign(request, campaign, run_request, around, stop, quiet, chaos)
        goes_on = handed_over or request.goes_on
        if handed_over:
            progress.notify("The last trainings of this stage go on in a smaller job.", plain=True)
        elif goes_on:
            progress.notify(
                f"Stage {request.context.until} is done; the next stage has its own allocation.", plain=True
            )
        elif request.context.until is None or request.context.until == stage_names(request.context)[-1]:
            _summary(root, progress)
        else:
            progress.notify(f"Stage {request.context.until} is done; run without --until to continue.", plain=True)
    if not goes_on:
        return root
    if around.job.number and request.site.driver.mode is DriverMode.RESIDENT:
        submit_campaign(run_request.resolve(), run_request, around, notify)
        return root
    return drive(run_request, notify, quiet=quiet, warn=warn, within=within, chaos=chaos)


def _campaign(
    request: ResolvedRun,
    campaign: OpenCampaign,
    run_request: RunRequest,
    around: BatchEnvironment,
    stop: Stopper,
    quiet: bool,
    chaos: ChaosPlan | None,
) -> tuple[ProgressPrinter, bool]:
    """Drive an open campaign to its end, or until its last tasks go on in a smaller job; return whether they do."""
    progress = ProgressPrinter(campaign.paths, quiet=quiet)
    context, paths, state = request.context, campaign.paths, campaign.state
    resolved = request.loaded.model.model_dump(mode="json")
    write_resolved(request, paths)
    if campaign.dead_driver is not None:
        progress.notify(
            f"An earlier driver (pid {campaign.dead_driver.pid}) died; the campaign continues where it stopped."
        )
    if (note := gone_note(request.gone)) is not None:
        progress.notify(note)
    if run_request.is_edited():
        progress.notify(
            f"{run_request.workflow} has changed since this job was submitted; "
            f"the job runs it as it was: {run_request.kept}"
        )
    with nodes_of(request, campaign, around, stop, run_request, progress.notify) as (launcher, fleet):
        driver = Driver(context, state, campaign.journal, launcher, fleet, request.site, progress, stop.requested)

        def at_once() -> None:
            driver.abandon()
            paths.lock.unlink(missing_ok=True)

        stop.at_once = at_once
        me = this_process()
        driver.record(
            DriverStarted(
                host=me.host,
                pid=me.pid,
                site=request.site.name,
                version=__version__,
                slots=context.slots,
                watts=request.site.slot_watts(),
                node_watts=request.site.energy.node_watts,
                idle_watts=request.site.energy.idle_node_watts,
                workflow=str(request.loaded.path.resolve()),
                resolved={
                    "workflow": resolved,
                    "overrides": list(run_request.overrides),
                    "site": run_request.choice.to_json(),
                },
                job=around.job.number,
            )
        )
        outcome, goes_on = "died", False
        try:
            with nullcontext() if chaos is None else Chaos(chaos, paths, progress.notify):
                driver.run()
            outcome = "done"
        except GFMError as error:
            outcome = str(error)
            # The successor continues after wall time or preemption; the user after a stop or a full disk.
            goes_on = type(error) is Stopped and not driver.cancelled and stop.number != signal.SIGINT
            cancelled = goes_on and stop.number is not None and is_cancelled(around)
            goes_on = goes_on and not cancelled
            if isinstance(error, Stopped):
                again = shlex.join(["gfm-pipeline", "resume", _relative(paths.root)])
                alone = fleet.ends_here()
                words = [error.hint, f"No job follows: {alone}." if alone else None]
                if cancelled:
                    words.append(f"Job {around.job.number} was cancelled by a person: no job goes on by itself.")
                follower = following(state, around.job) if goes_on else None
                if follower is not None:
                    stop_it = shlex.join(["gfm-pipeline", "cancel", _relative(paths.root)])
                    words.append(f"The campaign goes on in job {follower}; stop it with: {stop_it}")
                else:
                    words.append(f"Go on with: {again}")
                raise type(error)(error.message, " ".join(word for word in words if word)) from error
            raise
        finally:
            progress.close()
            with suppress(StorageError):  # the full disk has been reported; the journal is complete without this line
                driver.close()
                for event in fleet.close(state, goes_on=goes_on):
                    driver.record(event)
                driver.record(DriverEnded(outcome))
    return progress, driver.handed_over


def _summary(root: Path, progress: ProgressPrinter) -> None:
    """Write the report, and print the results and their paths."""
    from gfm_pipeline.report.summary import summary_lines  # here: a failed campaign draws nothing
    from gfm_pipeline.report.write import write_report

    _, _, view = write_report(root)
    for line in summary_lines(view, _relative(root)):
        progress.notify(line, plain=True)


def _relative(path: Path) -> str:
    """Return ``path`` relative to the working directory if that is shorter."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
