"""Commands that drive a campaign: run, resume, unlock."""

from __future__ import annotations

import shlex
import signal
from contextlib import nullcontext, suppress
from pathlib import Path

import click

from gfm_pipeline import __version__
from gfm_pipeline.campaign.events import DriverEnded, DriverStarted
from gfm_pipeline.campaign.folder import OpenCampaign, check_name, driving
from gfm_pipeline.campaign.holder import this_process
from gfm_pipeline.campaign.identity import remember_digests
from gfm_pipeline.campaign.lock import unlock as release
from gfm_pipeline.campaign.state import load_state
from gfm_pipeline.cli.allocate import Surroundings, nodes_of, surroundings, write_resolved
from gfm_pipeline.cli.campaigns import campaign_argument, existing
from gfm_pipeline.cli.fault_options import CHAOS, FAULT, check_faults, injecting
from gfm_pipeline.cli.jobs import following, is_cancelled, refuse_beside_jobs, stop_after_cancelled
from gfm_pipeline.cli.lasting_output import outlast_output
from gfm_pipeline.cli.options import (
    Request,
    SiteChoice,
    gone_note,
    overlay_option,
    site_set_option,
    workflow_options,
)
from gfm_pipeline.cli.progress import Progress
from gfm_pipeline.cli.run_request import Asked
from gfm_pipeline.cli.stopping import Stopper, stopping
from gfm_pipeline.cli.submit import submit_campaign
from gfm_pipeline.cli.terminal import outlive
from gfm_pipeline.core.errors import ConfigError, GFMError, Stopped, StorageError
from gfm_pipeline.core.faultpoints import Fault, FaultPoint, reach
from gfm_pipeline.core.publish import write_atomic
from gfm_pipeline.engine.chaos import Chaos, ChaosPlan
from gfm_pipeline.engine.driver import Driver
from gfm_pipeline.sites.enums import DriverMode
from gfm_pipeline.sites.registry import split_sets

QUIET = click.option("-q", "--quiet", is_flag=True, help="Say nothing until the end.")


@click.command()
@workflow_options
@QUIET
@CHAOS
@FAULT
@click.option("--as-submitted", "kept", type=click.Path(path_type=Path), default=None, hidden=True)
def run(
    workflow: Path,
    site: str,
    overlays: tuple[Path, ...],
    folder: Path | None,
    overrides: tuple[str, ...],
    quiet: bool,
    chaos: str | None,
    faults: tuple[str, ...],
    kept: Path | None,
) -> None:
    """Run the campaign of WORKFLOW to its end, or go on with it.

    Running again continues: what is done under the same settings and data is not repeated, after
    whatever end the last run had. Changed settings re-run only the stages that depend on them.
    Ctrl-C stops politely: running trainings save a checkpoint first. A second Ctrl-C stops at once.
    """
    _drive(Asked(workflow, SiteChoice(site, overlays), folder, overrides, kept), quiet, *check_faults(faults, chaos))


@click.command()
@campaign_argument
@click.option(
    "--site", "site", default=None, help="Site by name, or a site file (.yaml).  [default: as it was last run]"
)
@overlay_option
@site_set_option
@QUIET
def resume(campaign: Path, site: str | None, overlays: tuple[Path, ...], sets: tuple[str, ...], quiet: bool) -> None:
    """Go on with the campaign in folder CAMPAIGN, with the workflow and on the site it was last run with.

    With --site or --overlay, what was laid over the last site holds no more; --set adds to it. Settings of the
    workflow are changed by `run`.
    """
    paths = existing(campaign)
    state = load_state(paths.journal)
    if not state.drivers:
        raise ConfigError(f"{campaign} was never driven.", "Use `gfm-pipeline run WORKFLOW`.")
    info = state.drivers[-1].info
    overrides = tuple(str(text) for text in info.resolved.get("overrides", []))
    choice = SiteChoice.from_json(info.resolved.get("site"))
    if site is not None or overlays:
        choice = SiteChoice(site or choice.name, overlays)
        overrides = split_sets(overrides)[0]
    overrides += tuple(text for text in sets if text not in overrides)
    _drive(Asked(Path(info.workflow), choice, paths.root, overrides), quiet)


@click.command()
@campaign_argument
@click.option("--force", is_flag=True, help="Even when the driver may be alive on another host.")
def unlock(campaign: Path, force: bool) -> None:
    """Remove the lock a dead driver left in folder CAMPAIGN."""
    paths = existing(campaign)
    who = release(paths.lock, force=force)
    click.echo(f"Unlocked (was held by {who})." if who else f"{campaign} is not locked.")


def _drive(
    asked: Asked,
    quiet: bool,
    faults: tuple[Fault, ...] = (),
    chaos: ChaosPlan | None = None,
) -> None:
    # Checked before anything is written, so that a mistake leaves no folder behind.
    request = asked.resolve()
    outlive()
    around = surroundings(request.site, click.echo)
    if request.site.driver.mode is DriverMode.RESIDENT and not around.job.number:
        submit_campaign(request, asked, around, click.echo)
        return
    root = request.context.paths.root
    check_name(request.context.paths, request.loaded.model.name)
    outlast_output()
    with injecting(faults, root):
        with (
            driving(root, request.loaded.model.name, around.job, around.job_ended) as campaign,
            stopping(request.site.driver.warning_signal if around.job.number else None) as stop,
        ):
            refuse_beside_jobs(campaign, around.job, click.echo)
            stop_after_cancelled(campaign, around)
            stop.at_once = lambda: campaign.paths.lock.unlink(missing_ok=True)
            remember_digests(request.digests, campaign.paths.digests)
            progress = _campaign(request, campaign, asked, around, stop, quiet, chaos)
        _summary(root, progress)


def _campaign(
    request: Request,
    campaign: OpenCampaign,
    asked: Asked,
    around: Surroundings,
    stop: Stopper,
    quiet: bool,
    chaos: ChaosPlan | None,
) -> Progress:
    """Drive an open campaign to its end."""
    progress = Progress(campaign.paths, quiet=quiet)
    context, paths, state = request.context, campaign.paths, campaign.state
    resolved = request.loaded.model.model_dump(mode="json")
    write_resolved(request, paths)
    if campaign.dead_driver is not None:
        progress.say(f"An earlier driver (pid {campaign.dead_driver.pid}) died; going on where it was.")
    if (note := gone_note(request)) is not None:
        progress.say(note)
    if asked.is_edited():
        progress.say(
            f"{asked.workflow} has changed since this job was submitted; the job runs it as it was: {asked.kept}"
        )
    with nodes_of(request, campaign, around, stop, asked, progress.say) as (launcher, fleet):
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
                workflow=str(request.loaded.path.resolve()),
                resolved={
                    "workflow": resolved,
                    "overrides": list(asked.overrides),
                    "site": asked.choice.to_json(),
                },
                job=around.job.number,
            )
        )
        outcome, goes_on = "died", False
        try:
            with nullcontext() if chaos is None else Chaos(chaos, paths, progress.say):
                driver.run()
            outcome = "done"
        except GFMError as error:
            outcome = str(error)
            # Wall time, preemption: the successor goes on. A person's word, or a full disk: people do.
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
            with suppress(StorageError):  # a full disk has been reported; the journal is whole without this line
                for event in fleet.close(state, goes_on=goes_on):
                    driver.record(event)
                driver.record(DriverEnded(outcome))
    return progress


def _summary(root: Path, progress: Progress) -> None:
    """Write the report and say what was made and where."""
    from gfm_pipeline.report.build import build_view, load_evaluation
    from gfm_pipeline.report.html import render_html
    from gfm_pipeline.report.markdown import render_markdown
    from gfm_pipeline.report.sources import load_found
    from gfm_pipeline.report.summary import summary_lines

    view, found = build_view(root), load_found(root)
    write_atomic(root / "report.md", render_markdown(view, found).encode())
    reach(FaultPoint.REPORT_MARKDOWN)
    write_atomic(root / "report.html", render_html(view, load_evaluation(root), found).encode())
    reach(FaultPoint.REPORT_WRITTEN)
    for line in summary_lines(view, _relative(root)):
        progress.say(line, plain=True)


def _relative(path: Path) -> str:
    """Return ``path`` relative to the working directory where that is shorter."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
