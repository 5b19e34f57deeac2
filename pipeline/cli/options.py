"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from gfm_pipeline.cli.support.amounts import Amount
from gfm_pipeline.core.errors import ConfigError

F = TypeVar("F", bound=Callable[..., Any])

campaign_argument = click.argument("campaign", type=click.Path(path_type=Path))  # identified by its folder
workflow_argument = click.argument("workflow", type=click.Path(path_type=Path))
site_option = click.option(
    "--site", "site", default="local", show_default=True, help="Site by name, or a site file (.yaml)."
)
overlay_option = click.option(
    "--overlay",
    "overlays",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="FILE",
    help="File whose keys override those of the site, e.g. your account. Repeatable.",
)
folder_option = click.option(
    "--campaign",
    "folder",
    type=click.Path(path_type=Path),
    default=None,
    help="Folder of the campaign.  [default: campaigns/NAME beside the workflow file]",
)
_ALLOCATION = "gfm_pipeline.allocation"


def _note_allocation(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    """Convert ``--nodes`` and similar options to the settings of the workflow that they abbreviate."""
    if value is not None:
        context.meta.setdefault(_ALLOCATION, {})[parameter.name] = f"allocation.{parameter.name}={value}"


def _with_allocation(context: click.Context, _: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    return (*value, *context.meta.get(_ALLOCATION, {}).values())


def _allocation_option(name: str, kind: Any, text: str) -> Callable[[F], F]:
    return click.option(
        f"--{name}",
        name,
        type=kind,
        default=None,
        help=text,
        is_eager=True,
        expose_value=False,
        callback=_note_allocation,
    )


nodes_option = _allocation_option(
    "nodes", click.IntRange(min=1), "Nodes of one batch job; short for --set allocation.nodes=N."
)
hours_option = _allocation_option("hours", Amount(), "Wall time of one batch job; short for --set allocation.hours=H.")
queue_option = _allocation_option("queue", str, "Queue of the site; short for --set allocation.queue=NAME.")


def _for_the_site(_: click.Context, __: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse settings of the workflow if only those of the site are accepted."""
    from gfm_pipeline.sites.registry import split_sets  # here: viewing a campaign does not need this slow import

    for text in split_sets(value)[0]:
        raise ConfigError(f"--set {text!r} is not for the site.", "Example: --set site.scheduler.account=abc123")
    return value


site_set_option = click.option(
    "--set",
    "sets",
    multiple=True,
    callback=_for_the_site,
    metavar="site.KEY=VALUE",
    help="Override a value of the site. Repeatable.",
)
set_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    callback=_with_allocation,
    metavar="KEY=VALUE",
    help="Override a value of the workflow, e.g. --set search.candidates=8, or of the site, "
    "e.g. --set site.scheduler.account=abc123. Repeatable.",
)


until_option = click.option(
    "--until", default=None, metavar="STAGE", help="Stop after this stage; run again without --until to continue."
)


def workflow_options(function: F) -> F:
    """Add the workflow argument and the options for running it."""
    function = nodes_option(hours_option(queue_option(set_option(function))))
    return workflow_argument(site_option(overlay_option(folder_option(function))))
