"""Commands that drive a campaign: run, resume, unlock."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import click

from gfm_pipeline.api.drive import drive
from gfm_pipeline.api.folders import existing
from gfm_pipeline.api.run_request import RunRequest, SiteChoice, last_request
from gfm_pipeline.campaign.lock import unlock as release
from gfm_pipeline.cli.options import campaign_argument, overlay_option, site_set_option, until_option, workflow_options
from gfm_pipeline.cli.support.fault_options import CHAOS, FAULT, check_faults, injecting
from gfm_pipeline.cli.support.lasting_output import outlast_output
from gfm_pipeline.cli.support.terminal import outlive
from gfm_pipeline.core.faultpoints import Fault
from gfm_pipeline.engine.chaos import ChaosPlan
from gfm_pipeline.sites.registry import split_sets

QUIET = click.option("-q", "--quiet", is_flag=True, help="Say nothing until the end.")


@click.command()
@workflow_options
@until_option
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
    until: str | None,
    quiet: bool,
    chaos: str | None,
    faults: tuple[str, ...],
    kept: Path | None,
) -> None:
    """Run the campaign of WORKFLOW to its end, or go on with it.

    Run it again to continue: work that is done under the same settings and data is not repeated, after
    whatever end the last run had. Changed settings re-run only the stages that depend on them.
    Ctrl-C stops politely: running trainings save a checkpoint first. A second Ctrl-C stops at once.
    """
    run_request = RunRequest(workflow, SiteChoice(site, overlays), folder, overrides, kept, until)
    _drive(run_request, quiet, *check_faults(faults, chaos))


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
    last = last_request(existing(campaign))
    choice, overrides = last.choice, last.overrides
    if site is not None or overlays:
        choice = SiteChoice(site or choice.name, overlays)
        overrides = split_sets(overrides)[0]
    overrides += tuple(text for text in sets if text not in overrides)
    _drive(RunRequest(last.workflow, choice, last.folder, overrides), quiet)


@click.command()
@campaign_argument
@click.option("--force", is_flag=True, help="Even when the driver may be alive on another host.")
def unlock(campaign: Path, force: bool) -> None:
    """Remove the lock a dead driver left in folder CAMPAIGN."""
    paths = existing(campaign)
    who = release(paths.lock, force=force)
    click.echo(f"Unlocked (was held by {who})." if who else f"{campaign} is not locked.")


def _drive(
    run_request: RunRequest, quiet: bool, faults: tuple[Fault, ...] = (), chaos: ChaosPlan | None = None
) -> None:
    """Drive a campaign for people at a terminal, which may go away before the campaign ends."""
    outlive()

    def within(root: Path) -> AbstractContextManager[None]:
        outlast_output()
        return injecting(faults, root)

    warn = partial(click.echo, err=True)
    drive(run_request, click.echo, quiet=quiet, warn=warn, within=within, chaos=chaos)
