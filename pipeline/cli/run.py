"""Commands that drive a campaign: run, resume, unlock."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import click

from gfm_pipeline.api.drive import drive
from gfm_pipeline.api.folders import existing
from gfm_pipeline.api.run_request import RunRequest, SiteChoice, last_request
from gfm_pipeline.campaign.lock import unlock as release
from gfm_pipeline.cli.options import campaign_argument, overlay_option, site_set_option, until_option, workflow_options
from gfm_pipeline.cli.support.answered import Unlocked
from gfm_pipeline.cli.support.answers import JSON, print_answer
from gfm_pipeline.cli.support.fault_options import CHAOS, FAULT, check_faults, injecting
from gfm_pipeline.cli.support.lasting_output import outlast_output
from gfm_pipeline.cli.support.terminal import outlive
from gfm_pipeline.core.faultpoints import Fault
from gfm_pipeline.engine.chaos import ChaosPlan
from gfm_pipeline.sites.registry import split_sets

QUIET = click.option("-q", "--quiet", is_flag=True, help="Print nothing until the end.")


@click.command()
@workflow_options
@until_option
@QUIET
@CHAOS
@FAULT
@JSON
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
    as_json: bool,
    kept: Path | None,
) -> None:
    """Run the campaign of WORKFLOW to its end, or continue it.

    Run the command again to continue: finished work under the same settings and data is never repeated.
    Changed settings re-run only the stages that depend on them.
    After Ctrl-C, running trainings save a checkpoint, then the campaign stops. A second Ctrl-C stops at once.
    """
    run_request = RunRequest(workflow, SiteChoice(site, overlays), folder, overrides, kept, until)
    _drive(run_request, quiet, as_json, *check_faults(faults, chaos))


@click.command()
@campaign_argument
@click.option(
    "--site", "site", default=None, help="Site by name, or a site file (.yaml).  [default: the site of the last run]"
)
@overlay_option
@site_set_option
@QUIET
@JSON
def resume(
    campaign: Path, site: str | None, overlays: tuple[Path, ...], sets: tuple[str, ...], quiet: bool, as_json: bool
) -> None:
    """Continue the campaign in folder CAMPAIGN with the workflow and the site of its last run.

    --site or --overlay replace the site and the overlays of the last run; --set adds to them. To change settings
    of the workflow, use `run`.
    """
    last = last_request(existing(campaign))
    choice, overrides = last.choice, last.overrides
    if site is not None or overlays:
        choice = SiteChoice(site or choice.name, overlays)
        overrides = split_sets(overrides)[0]
    overrides += tuple(text for text in sets if text not in overrides)
    _drive(RunRequest(last.workflow, choice, last.folder, overrides), quiet, as_json)


@click.command()
@campaign_argument
@click.option("--force", is_flag=True, help="Remove the lock even if the driver may be alive on another host.")
@JSON
def unlock(campaign: Path, force: bool, as_json: bool) -> None:
    """Remove the lock of a dead driver from folder CAMPAIGN."""
    paths = existing(campaign)
    who = release(paths.lock, force=force)
    if as_json:
        print_answer(Unlocked(str(paths.root), who or None))
        return
    click.echo(f"Unlocked (was held by {who})." if who else f"{campaign} is not locked.")


def _drive(
    run_request: RunRequest, quiet: bool, as_json: bool, faults: tuple[Fault, ...] = (), chaos: ChaosPlan | None = None
) -> None:
    """Drive a campaign for users at a terminal, which may close before the campaign ends."""
    outlive()

    def within(root: Path) -> AbstractContextManager[None]:
        outlast_output()
        return injecting(faults, root)

    warn = partial(click.echo, err=True)
    root = drive(run_request, warn if as_json else click.echo, quiet=quiet, warn=warn, within=within, chaos=chaos)
    if as_json:
        _print_status(root or run_request.resolve().context.paths.root)


def _print_status(root: Path) -> None:
    from gfm_pipeline.report.build import build_view  # here: only after the end of the campaign
    from gfm_pipeline.report.status_text import status_json

    click.echo(json.dumps(status_json(build_view(root)), indent=1, allow_nan=False))
