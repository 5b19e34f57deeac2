"""Commands about workflow files: validate, schema."""

from __future__ import annotations

import json
from pathlib import Path

import click

from gfm_pipeline.api.fine_tuning import known_elements_note
from gfm_pipeline.api.run_request import RunRequest, SiteChoice
from gfm_pipeline.campaign.folder import check_name
from gfm_pipeline.cli.options import workflow_options
from gfm_pipeline.cli.support.answered import Validated
from gfm_pipeline.cli.support.answers import JSON, answer_schema, print_answer


@click.command()
@workflow_options
@JSON
def validate(
    workflow: Path,
    site: str,
    overlays: tuple[Path, ...],
    folder: Path | None,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Check keys, types, readers, files and site of WORKFLOW, and report the first fault."""
    request = RunRequest(workflow, SiteChoice(site, overlays), folder, overrides).resolve()
    check_name(request.context.paths, request.loaded.model.name)
    sources = tuple(s.name for s in request.context.sources)
    if as_json:
        name = request.loaded.model.name
        print_answer(Validated(str(workflow), name, sources, request.site.name, request.context.slots))
        return
    names = ", ".join(sources)
    click.echo(f"{workflow} is valid: sources {names}; site {request.site.name} with {request.context.slots} slots.")
    if (note := known_elements_note(request.loaded)) is not None:
        click.echo(note)


@click.command()
@click.option("--answer", "command", metavar="COMMAND", help="The schema of what COMMAND --json prints, instead.")
def schema(command: str | None) -> None:
    """Print the JSON schema of workflow files, for editors."""
    if command is not None:
        click.echo(json.dumps(answer_schema(command), indent=1))
        return
    from gfm_pipeline.workflow.schema import WorkflowModel

    click.echo(json.dumps(WorkflowModel.model_json_schema(), indent=1))
