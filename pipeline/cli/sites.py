"""Commands about machines: list them, show one with the origin of every value, check it, print the schema."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from gfm_pipeline.cli.check_site import check, probing
from gfm_pipeline.cli.options import overlay_option, site_set_option
from gfm_pipeline.cli.support.answers import JSON, print_answer
from gfm_pipeline.core.errors import SiteError
from gfm_pipeline.sites.registry import LoadedSite, SettingSource, json_schema, known, load_site

# First columns of comments: longer lines move the comment, up to the second figure, then it gets its own line before.
COLUMN, WIDEST = 56, 110
PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9_./-]*")


@click.group(invoke_without_command=True)
@click.pass_context
def sites(context: click.Context) -> None:
    """List site files, show one, check this machine, or print the schema of site files. Default: list."""
    if context.invoked_subcommand is None:
        context.invoke(listing)


sites.add_command(check)
sites.add_command(probing, name="probe")


@sites.command(name="list")
@JSON
def listing(as_json: bool = False) -> None:
    """List the sites of the package and your own."""
    found = [load_site(name) for name in known()]
    if as_json:
        print_answer({}, sites={site.model.name: site.model.description for site in found})
        return
    width = max(len(site.model.name) for site in found)
    for site in found:
        own = "  (yours)" if site.origin("name").source is SettingSource.USER else ""
        click.echo(f"{site.model.name:<{width}}  {site.model.description}{own}")


@sites.command()
@click.argument("name")
@overlay_option
@site_set_option
@click.option("--only", metavar="KEY", default=None, help="Show one part, e.g. scheduler.queues.")
@JSON
def show(name: str, overlays: tuple[Path, ...], sets: tuple[str, ...], only: str | None, as_json: bool) -> None:
    """Show all settings of site NAME (or of a site file), and where each value comes from.

    The output is a valid site file. The comment after each value names its file and line, or `--set`, or `default`.
    """
    site = load_site(name, overlays, sets)
    at = tuple(only.split(".")) if only else ()
    data: Any = site.model.model_dump(mode="json")
    for key in at:
        if not isinstance(data, dict) or key not in data:
            keys = f"Keys there: {', '.join(data)}." if isinstance(data, dict) else "It holds a value."
            raise SiteError(f"Site {site.model.name} has no {only!r}.", hint=keys)
        data = data[key]
    if as_json:
        click.echo(json.dumps(_document(site, at, data), indent=1))
        return
    for line in _lines(site, at, data):
        click.echo(line)


@sites.command()
def schema() -> None:
    """Print the JSON schema of site files and overlays, for editors."""
    click.echo(json.dumps(json_schema(), indent=1))


def _document(site: LoadedSite, at: tuple[str, ...], data: Any) -> dict[str, Any]:
    """Return the answer of `sites show --json`."""
    origins = {
        ".".join(location): {
            "source": str(origin.source),
            "path": None if origin.path is None else str(origin.path),
            "line": origin.line,
        }
        for location, _, origin in site.leaves()
        if location[: len(at)] == at
    }
    document = {"schema_version": 1, "name": site.model.name, "site": data, "origins": origins}
    if site.model.scheduler.system is None:
        document["slots_here"] = site.model.resolved_slots()
    return document


@dataclass(frozen=True)
class _Line:
    text: str
    comment: str = ""

    def __str__(self) -> str:
        if not self.comment:
            return self.text
        if len(self.text) <= WIDEST:
            return f"{self.text:<{COLUMN}}  # {self.comment}"
        indent = " " * (len(self.text) - len(self.text.lstrip()))
        return f"{indent}# {self.comment}\n{self.text}"


def _lines(site: LoadedSite, at: tuple[str, ...], data: Any) -> Iterator[_Line]:
    files: dict[str, SettingSource] = {}
    for _, _, origin in site.leaves():
        if origin.path is not None:
            files.setdefault(str(origin.path), origin.source)
    for path, source in sorted(files.items(), key=lambda item: list(SettingSource).index(item[1])):
        yield _Line(f"# {source:<8} {path}")
    if site.model.scheduler.system is None:
        yield _Line(f"# here     {site.model.resolved_slots()} tasks at a time")
    if isinstance(data, dict):
        yield from _mapping(site, at, data, 0)
    else:
        yield from _entry(site, at, data, 0)


def _mapping(site: LoadedSite, at: tuple[str, ...], data: dict[str, Any], depth: int) -> Iterator[_Line]:
    for key, value in data.items():
        if isinstance(value, dict) and value:
            yield _Line(f"{'  ' * depth}{key}:")
            yield from _mapping(site, (*at, key), value, depth + 1)
        else:
            yield from _entry(site, (*at, key), value, depth)


def _entry(site: LoadedSite, at: tuple[str, ...], value: Any, depth: int) -> Iterator[_Line]:
    """Yield the lines of one value; a long list takes several lines."""
    indent, comment = "  " * depth, str(site.origin(*at))
    line = f"{indent}{at[-1]}: {_scalar(value)}"
    if not isinstance(value, list) or len(line) <= COLUMN:
        yield _Line(line, comment)
        return
    yield _Line(f"{indent}{at[-1]}:", comment)
    for item in value:
        yield _Line(f"{indent}  - {_scalar(item)}")


def _scalar(value: Any) -> str:
    """Return a value as YAML (JSON is YAML), without quotes if a word needs none."""
    if isinstance(value, str) and PLAIN.fullmatch(value) and value.lower() not in ("true", "false", "null"):
        return value
    return json.dumps(value, ensure_ascii=False)
