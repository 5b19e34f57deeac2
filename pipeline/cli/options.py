"""Options several commands share, and what they resolve to."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from gfm_pipeline.campaign.identity import file_digests
from gfm_pipeline.campaign.paths import CampaignPaths
from gfm_pipeline.campaign.recorded_sources import recorded_sources
from gfm_pipeline.campaign.state import load_state
from gfm_pipeline.cli.amounts import Amount
from gfm_pipeline.core.errors import ConfigError
from gfm_pipeline.engine.decisions.decide import finished_stage
from gfm_pipeline.engine.decisions.requests import Context
from gfm_pipeline.engine.resources.requirements import Impossible, Resources, decide_resources
from gfm_pipeline.engine.stages import search
from gfm_pipeline.engine.stages.ingest import NAME as INGEST
from gfm_pipeline.sites.registry import LoadedSite, load_site, split_sets
from gfm_pipeline.sites.schema import SiteModel
from gfm_pipeline.workflow.gone_files import gone_digests
from gfm_pipeline.workflow.load import LoadedWorkflow, load_workflow
from gfm_pipeline.workflow.resolve import input_names, resolve_sources

F = TypeVar("F", bound=Callable[..., Any])

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
    help="File with keys of the site that win over it, e.g. your account. Repeatable.",
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
    """Keep ``--nodes`` and its like as what they are short for: settings of the workflow."""
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
hours_option = _allocation_option("hours", Amount(), "Its wall time; short for --set allocation.hours=H.")
queue_option = _allocation_option("queue", str, "Queue of the site; short for --set allocation.queue=NAME.")


def _for_the_site(_: click.Context, __: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse settings of the workflow where only those of the site are taken."""
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


def workflow_options(function: F) -> F:
    """Add the workflow argument and the options that say how to run it."""
    function = nodes_option(hours_option(queue_option(set_option(function))))
    return workflow_argument(site_option(overlay_option(folder_option(function))))


@dataclass(frozen=True)
class SiteChoice:
    """The site a user asked for, as the journal keeps it for `resume`."""

    name: str
    overlays: tuple[Path, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return it with absolute paths, since `resume` may be called from elsewhere."""
        name = str(Path(self.name).resolve()) if self.name.endswith((".yaml", ".yml")) else self.name
        return {"name": name, "overlays": [str(path.resolve()) for path in self.overlays]}

    @classmethod
    def from_json(cls, recorded: dict[str, Any] | None) -> SiteChoice:
        """Return what `to_json` gave; the local site for campaigns that recorded none."""
        if recorded is None:
            return cls("local")
        return cls(recorded["name"], tuple(Path(path) for path in recorded["overlays"]))


@dataclass(frozen=True)
class Request:
    """A workflow on a site, in a folder: checked and resolved, nothing touched yet."""

    loaded: LoadedWorkflow
    loaded_site: LoadedSite
    context: Context
    digests: dict[str, str]  # input file -> SHA-256
    resources: Resources
    gone: tuple[Path, ...] = ()  # source files that are not there any more, and not needed

    @property
    def site(self) -> SiteModel:
        """The site itself."""
        return self.loaded_site.model


def resolve(
    workflow: Path,
    site_name: str,
    folder: Path | None,
    overrides: tuple[str, ...],
    overlays: tuple[Path, ...] = (),
    kept: Path | None = None,
) -> Request:
    """Check everything that can be checked without running; writes nothing."""
    of_workflow, of_site = split_sets(overrides)
    loaded = load_workflow(workflow, of_workflow, kept)
    loaded_site = load_site(site_name, overlays, of_site)
    site = loaded_site.model
    resources = decide_resources(loaded.model, site)
    if isinstance(resources, Impossible):
        raise _refused(resources, loaded, loaded_site)
    root = folder or workflow.resolve().parent / "campaigns" / loaded.model.name
    paths = CampaignPaths(root.resolve())
    recorded = recorded_sources(paths, INGEST)
    sources = resolve_sources(loaded, recorded)
    files = [Path(f) for source in sources for f in source.files]
    check_names([paths.root, workflow.resolve(), *files])
    gone = gone_digests(sources, recorded)
    digests = file_digests([f for f in files if str(f) not in gone], paths.digests) | gone
    context = Context(
        workflow=loaded.model,
        sources=sources,
        source_digests=input_names(sources, digests),
        slots=resources.at_a_time(search.NAME),
        threads=site.threads_per_task,
        paths=paths,
        sizes=resources.sizes,
    )
    if gone:
        _need_finished_ingest(context, loaded, gone)
    return Request(loaded, loaded_site, context, digests, resources, tuple(map(Path, gone)))


def _need_finished_ingest(context: Context, loaded: LoadedWorkflow, gone: Iterable[str]) -> None:
    """Refuse to go on without source files that ingest has yet to read, under today's settings and other files."""
    if finished_stage(context, load_state(context.paths.journal), INGEST) is None:
        raise loaded.error(
            ("data", "sources"),
            f"Ingest has to run, since its settings or files changed, and {shown(gone)}.",
            "Put the files back, or undo the change: what was published under it is used then.",
        )


def shown(gone: Iterable[str | Path]) -> str:
    """Return a clause that names source files which are gone."""
    names = [str(path) for path in gone]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return (
        f"source files are gone ({', '.join(names[:3])}{more})" if names[1:] else f"the source file {names[0]} is gone"
    )


def gone_note(request: Request) -> str | None:
    """Return what people are told when sources are gone that nothing needs any more; None: none are."""
    if not request.gone:
        return None
    note = shown(request.gone)
    return f"{note[0].upper()}{note[1:]}; ingest is done and needs them no more: their recorded digests are used."


def check_names(paths: Iterable[Path]) -> None:
    """Refuse paths that no record can name: records are UTF-8, and a path may be any bytes.

    Raises
    ------
    ConfigError
        Naming the first of them.
    """
    for path in paths:
        shown = os.fsencode(path).decode(errors="backslashreplace")
        if shown != str(path):
            raise ConfigError(f"The path {shown} is not UTF-8, so no record can name it.", "Rename it.")


def _refused(found: Impossible, loaded: LoadedWorkflow, site: LoadedSite) -> ConfigError:
    """Return the error of settings that cannot run, at the key of the file that is at fault."""
    keys = tuple(found.key.split("."))
    if keys[0] == "site":
        return site.error(keys[1:], found.message, found.hint)
    return loaded.error(keys, found.message, found.hint)
