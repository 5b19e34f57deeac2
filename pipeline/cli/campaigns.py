"""Commands about folders of campaigns: list, log and clean."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import click
from rich.table import Table
from rich.text import Text

from gfm_pipeline.api.campaign_log import CampaignLog, LogLine, TaskLog, follow
from gfm_pipeline.api.cleaning import KINDS, Removable, removable, remove
from gfm_pipeline.api.folders import existing
from gfm_pipeline.api.listing import bytes_below, campaigns_below
from gfm_pipeline.cli.options import campaign_argument
from gfm_pipeline.cli.support import terminal
from gfm_pipeline.cli.support.answered import Cleaned, Listed
from gfm_pipeline.cli.support.answers import JSON, print_answer, print_line
from gfm_pipeline.report.text import moment

PIPED = 160  # width of lines outside terminals, in characters
CAMPAIGNS = Path("campaigns")
_UNITS = ("B", "kB", "MB", "GB", "TB")


@click.command("list")
@click.argument("folder", type=click.Path(path_type=Path), required=False)
@JSON
def listing(folder: Path | None, as_json: bool) -> None:
    """List the campaigns in FOLDER and below it: state, stage, size, and when something last happened.

    Without FOLDER: campaigns, where there is such a folder, else the one you are in.
    """
    place = folder or (CAMPAIGNS if CAMPAIGNS.is_dir() else Path())
    found = campaigns_below(place)
    if as_json:
        print_answer(Listed(str(place), found))
        return
    if not found:
        click.echo(f"There is no campaign in {place} nor below it.")
        return
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for name, justify in (("campaign", "left"), ("state", "left"), ("stage", "left"), ("size", "right"),
                          ("last event", "left"), ("folder", "left")):  # fmt: skip
        table.add_column(name, justify="right" if justify == "right" else "left", overflow="fold")
    for one in found:
        stage = f"{one.stage}: {one.detail}" if one.stage else one.detail
        cells = (one.name, one.state, stage, size(one.bytes), moment(one.last_event), _short(Path(one.path)))
        table.add_row(*map(Text, cells))
    _console_print(table)


@click.command()
@campaign_argument
@click.option("--task", metavar="TASK", help="What this task printed, instead of what happened in the campaign.")
@click.option("--attempt", type=click.IntRange(1), help="Attempt at the task.  [default: the newest]")
@click.option("-n", "--lines", type=click.IntRange(0), default=200, show_default=True, help="Newest lines to print.")
@click.option("-f", "--follow", "go_on", is_flag=True, help="Print further lines as they come, until there are none.")
@JSON
def logs(campaign: Path, task: str | None, attempt: int | None, lines: int, go_on: bool, as_json: bool) -> None:
    """Print what happened in folder CAMPAIGN, or with --task what the programs of a task printed.

    A task is named as `status` and the report name it: m00, search/c00003-r1. With --json each line is an object.
    """
    paths = existing(campaign)
    log: CampaignLog | TaskLog
    if task is None:
        if attempt is not None:
            raise click.UsageError("--attempt is of a task: give --task, too.")
        log = CampaignLog(paths)
        _print_lines(deque(log.new_lines(), lines), as_json)
    else:
        log = TaskLog(paths, task, attempt)
        if not as_json:
            click.echo(log.summary(), err=True)
        _print_lines(deque(log.new_lines(parts=not go_on), lines), as_json)
    if go_on:
        _print_lines(follow(log), as_json)


@click.command()
@campaign_argument
@click.option(
    "--only",
    type=click.Choice([kind.name for kind in KINDS]),
    multiple=True,
    help="Only what is of this kind. Repeatable.",
)
@click.option("--yes", is_flag=True, help="Remove it without asking.")
@JSON
def clean(campaign: Path, only: tuple[str, ...], yes: bool, as_json: bool) -> None:
    """Show what of folder CAMPAIGN may be removed, and how much that frees; ask, then remove it.

    Nothing that resuming, the report, or exporting the ensemble needs is ever removed. While a driver holds the
    campaign, nothing is.
    """
    paths = existing(campaign)
    before = bytes_below(paths.root)
    found = removable(paths, only)
    agreed = bool(found) and (yes or (not as_json and sys.stdin.isatty()))
    if not as_json:
        _show(found, before)
        agreed = agreed and (yes or click.confirm("Remove it?"))
    if agreed:
        found = remove(paths, only)
    freed = sum(one.bytes for one in found)
    if as_json:
        print_answer(Cleaned(str(paths.root), agreed, freed, before, found))
    elif agreed:
        click.echo(f"Removed: {size(freed)}.")
    elif found:
        click.echo("Nothing was removed; with --yes it is.")


def size(count: float) -> str:
    """Return a number of bytes for users: 12 B, 3.4 MB."""
    for unit in _UNITS:
        if count < 999.5 or unit == _UNITS[-1]:
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "B" or count >= 99.5 else f"{count:.3g} {unit}"


def _show(found: tuple[Removable, ...], before: int) -> None:
    if not found:
        click.echo(f"There is nothing to remove; the campaign takes {size(before)}.")
        return
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("what")
    for name in ("folders", "frees"):
        table.add_column(name, justify="right")
    table.add_column("costs later", overflow="fold")
    for one in found:
        table.add_row(one.kind, f"{len(one.folders):,}", size(one.bytes), one.costs)
    _console_print(table)
    click.echo(f"In all {size(sum(one.bytes for one in found))} of {size(before)}.")


def _print_lines(lines: Iterator[LogLine] | deque[LogLine], as_json: bool) -> None:
    for line in lines:
        if as_json:
            print_line(line)
        else:
            at = "" if line.time is None else f"{moment(line.time)}  "
            origin = f"{line.origin}: " if line.time is None else ""
            click.echo(f"{at}{origin}{line.text}")
        sys.stdout.flush()


def _console_print(table: Table) -> None:
    console = terminal.console()
    if not console.is_terminal:
        console.width = PIPED
    console.print(table)


def _short(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
