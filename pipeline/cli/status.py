"""Commands that look at a campaign and never touch it: status, report."""

from __future__ import annotations

import json
import time
from pathlib import Path

import click

from gfm_pipeline.api.folders import existing
from gfm_pipeline.cli.options import campaign_argument
from gfm_pipeline.cli.support import terminal
from gfm_pipeline.cli.support.amounts import Amount
from gfm_pipeline.cli.support.answers import JSON, print_answer


@click.command()
@campaign_argument
@JSON
@click.option("--watch", type=Amount(0.5, closed=True), default=None, metavar="SECONDS", help="Refresh until Ctrl-C.")
def status(campaign: Path, as_json: bool, watch: float | None) -> None:
    """Show the progress of the campaign in folder CAMPAIGN.

    The command only reads files. It works while the driver runs, after the driver ended, and from other machines.
    """
    from gfm_pipeline.report.build import build_view
    from gfm_pipeline.report.status_text import render_status, status_json

    paths = existing(campaign)
    if as_json:
        click.echo(json.dumps(status_json(build_view(paths.root)), indent=1, allow_nan=False))
        return
    console = terminal.console()
    while True:
        view = build_view(paths.root)
        if watch:
            console.clear()
        render_status(view, console)
        if not watch or not view.driver_alive:
            return
        time.sleep(watch)


@click.command()
@campaign_argument
@click.option(
    "--output", type=click.Path(path_type=Path), default=None, help="Folder to write into.  [default: CAMPAIGN]"
)
@JSON
def report(campaign: Path, output: Path | None, as_json: bool) -> None:
    """Write the report of the campaign in folder CAMPAIGN as report.html and report.md.

    The report shows results, every candidate, the data of each source (histograms, quarantined records with
    reasons), and failures. The command works at any time. It also writes results.csv, with the candidates of the
    search in the columns of DeepHyper's own tools, and optuna_journal.log, which optuna-dashboard shows.
    """
    from gfm_pipeline.cli.support.answered import Reported
    from gfm_pipeline.report.results_csv import FILE
    from gfm_pipeline.report.write import write_report

    page, text, _ = write_report(existing(campaign).root, output)
    if as_json:
        table = page.with_name(FILE)
        print_answer(Reported(str(page), str(text), str(table) if table.exists() else None))
        return
    click.echo(str(page))
    click.echo(str(text))
