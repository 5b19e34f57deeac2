"""The command that submits a campaign whose driver lives in its batch job."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import click

from gfm_pipeline.api.allocate import (
    batch_environment,
)
from gfm_pipeline.api.run_request import RunRequest, SiteChoice
from gfm_pipeline.api.submission import submit_campaign
from gfm_pipeline.cli.options import workflow_options
from gfm_pipeline.core.errors import ConfigError
from gfm_pipeline.sites.enums import DriverMode

Notify = Callable[[str], None]


@click.command()
@workflow_options
def submit(
    workflow: Path,
    site: str,
    overlays: tuple[Path, ...],
    folder: Path | None,
    overrides: tuple[str, ...],
) -> None:
    """Submit the campaign of WORKFLOW as a batch job that drives itself on its own nodes.

    The jobs run the workflow as it is now, whatever is edited later. Each job submits its successor, which goes on
    when it has ended, until the campaign is done. `plan --show-scripts` shows the batch script before anything is
    submitted; `status CAMPAIGN` shows where it stands, and `cancel CAMPAIGN` stops the jobs.
    """
    run_request = RunRequest(workflow, SiteChoice(site, overlays), folder, overrides)
    request = run_request.resolve()
    if request.site.driver.mode is not DriverMode.RESIDENT:
        instead = shlex.join(["gfm-pipeline", "run", str(workflow), "--site", site])
        raise ConfigError(
            f"On site {request.site.name} the driver does not live in a batch job.",
            f"Use `{instead}`, or --set site.driver.mode=resident.",
        )
    submit_campaign(request, run_request, batch_environment(request.site, click.echo), click.echo)
