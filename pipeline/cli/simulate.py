"""The command that runs a campaign in a simulation."""

from __future__ import annotations

import json
from pathlib import Path

import click

from gfm_pipeline.cli.options import workflow_options
from gfm_pipeline.cli.support.answers import JSON
from gfm_pipeline.core.errors import GFMError


@click.command()
@workflow_options
@click.option(
    "--scenario",
    "scenario_file",
    type=click.Path(path_type=Path),
    default=None,
    metavar="FILE",
    help="Assumptions about machine, batch system, driver and trainings (YAML, docs/simulate.md); "
    "--set scenario.KEY=VALUE overrides them.",
)
@click.option(
    "--from",
    "recorded",
    type=click.Path(path_type=Path),
    default=None,
    metavar="CAMPAIGN",
    help="Fit times and learning curves to the journal of this finished campaign.",
)
@click.option("--seed", type=click.IntRange(min=0), default=None, help="Short for --set scenario.seed=N.")
@click.option(
    "--compare/--no-compare",
    default=None,
    help="Also simulate half and twice the nodes and trials.  [default: if this takes less than minutes]",
)
@JSON
def simulate(
    workflow: Path,
    site: str,
    overlays: tuple[Path, ...],
    folder: Path | None,
    overrides: tuple[str, ...],
    scenario_file: Path | None,
    recorded: Path | None,
    seed: int | None,
    compare: bool | None,
    as_json: bool,
) -> None:
    """Simulate the campaign of WORKFLOW on a machine, and print times, occupancy and cost.

    Decisions, search, placement and journal are those of a real run; clock, cluster, batch system and trainings are
    simulated. The command submits nothing and reads no data. With --campaign, it keeps the simulated campaign, for
    `status` and `report`; without, it leaves no files. If the simulated campaign fails, the exit code is 1.
    """
    from gfm_pipeline.simulate.request import SimulationRequest, simulated
    from gfm_pipeline.simulate.result_text import lines

    def notify(text: str) -> None:
        click.echo(text, err=True)

    simulation_request = SimulationRequest(workflow, site, overlays, folder, overrides, scenario_file, recorded, seed)
    found = simulated(simulation_request, notify, compare=compare)
    if as_json:
        click.echo(json.dumps(found.to_plain(), indent=1, allow_nan=False))
    else:
        for line in lines(found):
            click.echo(line)
    if found.failed:
        raise click.exceptions.Exit(GFMError.exit_code)
