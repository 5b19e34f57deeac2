"""The command that runs a campaign in a simulation."""

from __future__ import annotations

import json
from pathlib import Path

import click

from gfm_pipeline.cli.options import workflow_options
from gfm_pipeline.cli.status import JSON


@click.command()
@workflow_options
@click.option(
    "--scenario",
    "scenario_file",
    type=click.Path(path_type=Path),
    default=None,
    metavar="FILE",
    help="What is assumed of machine, batch system, driver and trainings (YAML, docs/simulate.md); "
    "--set scenario.KEY=VALUE wins over it.",
)
@click.option(
    "--from",
    "recorded",
    type=click.Path(path_type=Path),
    default=None,
    metavar="CAMPAIGN",
    help="Fit times and learning curves to the journal of a campaign that was run.",
)
@click.option("--seed", type=click.IntRange(min=0), default=None, help="Short for --set scenario.seed=N.")
@click.option(
    "--compare/--no-compare",
    default=None,
    help="Simulate half and twice the nodes and trials, too, to advise one.  [default: where it takes no minutes]",
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
    """Run the campaign of WORKFLOW in a simulation of a machine, and say how well it would use it.

    Decisions, search, placement and journal are the real ones; clock, cluster, batch system and trainings are
    simulated. Nothing is submitted, and no data is read. Without --campaign nothing is left behind; with it the
    simulated campaign can be looked at with `status` and `report`.
    """
    from gfm_pipeline.simulate.request import SimulationRequest, simulated
    from gfm_pipeline.simulate.result_text import lines

    def notify(text: str) -> None:
        click.echo(text, err=True)

    simulation_request = SimulationRequest(workflow, site, overlays, folder, overrides, scenario_file, recorded, seed)
    found = simulated(simulation_request, notify, compare=compare)
    if as_json:
        click.echo(json.dumps(found.to_plain(), indent=1, allow_nan=False))
        return
    for line in lines(found):
        click.echo(line)
