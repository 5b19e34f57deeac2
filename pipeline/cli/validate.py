"""Commands about workflow files: validate, schema."""

from __future__ import annotations

import json
from pathlib import Path

import click

from gfm_pipeline.api.run_request import RunRequest, SiteChoice
from gfm_pipeline.campaign.folder import check_name
from gfm_pipeline.cli.options import workflow_options


@click.command()
@workflow_options
def validate(
    workflow: Path, site: str, overlays: tuple[Path, ...], folder: Path | None, overrides: tuple[str, ...]
) -> None:
    """Check keys, types, readers, files and site of WORKFLOW, and report the first fault."""
    request = RunRequest(workflow, SiteChoice(site, overlays), folder, overrides).resolve()
    check_name(request.context.paths, request.loaded.model.name)
    names = ", ".join(s.name for s in request.context.sources)
    click.echo(f"{workflow} is valid: sources {names}; site {request.site.name} with {request.context.slots} slots.")


@click.command()
def schema() -> None:
    """Print the JSON schema of workflow files, for editors."""
    from gfm_pipeline.workflow.schema import WorkflowModel

    click.echo(json.dumps(WorkflowModel.model_json_schema(), indent=1))
