"""The command that submits a campaign whose driver runs in its batch job."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import click

from gfm_pipeline.api.allocate import (
    batch_environment,
)
from gfm_pipeline.api.run_request import ResolvedRun, RunRequest, SiteChoice
from gfm_pipeline.api.submission import submit_campaign
from gfm_pipeline.cli.options import until_option, workflow_options
from gfm_pipeline.cli.support.answered import Sentences
from gfm_pipeline.cli.support.answers import JSON, print_answer
from gfm_pipeline.core.errors import ConfigError
from gfm_pipeline.engine.resources.allocation import Allocation
from gfm_pipeline.engine.resources.stage_jobs import jobs_of
from gfm_pipeline.sites.enums import DriverMode
from gfm_pipeline.sites.limits import counted
from gfm_pipeline.sites.schema import SiteModel

LARGE = 1000.0  # node-hours per job: the command asks before larger jobs
Notify = Callable[[str], None]


@click.command()
@workflow_options
@until_option
@click.option("--yes", is_flag=True, help=f"Do not ask before a job of {LARGE:g} node-hours or more.")
@JSON
def submit(
    workflow: Path,
    site: str,
    overlays: tuple[Path, ...],
    folder: Path | None,
    overrides: tuple[str, ...],
    until: str | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Submit the campaign of WORKFLOW as a batch job; the driver runs inside the job.

    The jobs run the workflow as it is now; later edits have no effect. Each job submits its successor, which starts
    when the job has ended, until the campaign is done. `plan --show-scripts` prints the batch script without
    submitting; `status CAMPAIGN` shows the progress, and `cancel CAMPAIGN` stops the jobs.
    """
    run_request = RunRequest(workflow, SiteChoice(site, overlays), folder, overrides, until=until)
    request = run_request.resolve()
    if request.site.driver.mode is not DriverMode.RESIDENT:
        instead = shlex.join(["gfm-pipeline", "run", str(workflow), "--site", site])
        raise ConfigError(
            f"On site {request.site.name} the driver does not run inside a batch job.",
            f"Use `{instead}`, or --set site.driver.mode=resident.",
        )
    sentences: list[str] = []
    notify: Notify = sentences.append if as_json else click.echo
    _agree(request, notify, yes=yes, may_ask=not as_json)
    submit_campaign(request, run_request, batch_environment(request.site, notify), notify)
    if as_json:
        print_answer(Sentences(tuple(sentences)))


def _agree(request: ResolvedRun, notify: Notify, *, yes: bool, may_ask: bool) -> None:
    """Say what a job may cost, and ask before a large one.

    Raises
    ------
    ConfigError
        When the job is large, and no terminal is available for the question, or the user declined.
    """
    jobs = list(jobs_of(request.loaded.model, request.site))
    for stages, job in jobs:
        which = "Each job" if len(jobs) == 1 else f"Each job of {' and '.join(stages)}"
        notify(f"{which} may take {_price(job, request.site)}.")
    hours = max(job.nodes * (job.hours or 0.0) for _, job in jobs)
    if hours < LARGE or yes:
        return
    if not (may_ask and sys.stdin.isatty()):
        raise ConfigError(f"A job of {hours:,.4g} node-hours needs your agreement.", "Add --yes.")
    if not click.confirm("Submit it?"):
        raise ConfigError("Nothing was submitted.", "Ask for fewer nodes or hours: --nodes, --hours.")


def _price(job: Allocation, site: SiteModel) -> str:
    """Return the largest cost of a job."""
    hours = job.nodes * (job.hours or 0.0)
    price = f"{counted(job.nodes, 'node')} for at most {job.hours or 0.0:g} h: {hours:,.4g} node-hours"
    if site.energy.node_watts is not None:
        price += f", {hours * site.energy.node_watts / 1000 * site.energy.pue:,.4g} kWh (modelled)"
    return price
