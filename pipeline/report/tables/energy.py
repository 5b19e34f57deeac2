"""Tables of the energy of a campaign, by use."""

from __future__ import annotations

from gfm_pipeline.report.energy import sentence, shown
from gfm_pipeline.report.tables.table import Column, Table
from gfm_pipeline.report.text import MISSING, count, percent, significant
from gfm_pipeline.report.view import CampaignView


def energy(view: CampaignView) -> Table:
    """Energy and node-hours of each stage: of attempts with a valid result, of lost attempts, and of idle nodes."""
    rows = tuple(
        (
            stage.name,
            significant(stage.node_hours),
            shown(stage.tasks),
            shown(stage.lost),
            shown(stage.idle),
            MISSING if stage.joules_per_graph is None else significant(stage.joules_per_graph),
        )
        for stage in view.energy.stages
    )
    columns = (
        Column("Stage"), Column("Node-hours of tasks", True), Column("Tasks", True), Column("Lost attempts", True),
        Column("Idle nodes", True), Column("J per graph", True),
    )  # fmt: skip
    text = sentence(view.energy)
    if not text:
        return Table(columns, ())
    note = (
        f"The campaign: {text} Overhead: lost attempts, and nodes before their first task and after their last. "
        "Measured: counters that nobody else moved; attributed: a share of counters; modelled: power model x time."
    )
    return Table(columns, rows, note)


def planned(view: CampaignView) -> Table:
    """Return the largest number of graphs that the plan has for each stage that trains, and its cost, beside the use.

    The plan's cost is at the stage's own rate: its node-hours and kWh per graph so far.
    """
    most = planned_graphs(view)
    rows = tuple(
        (
            stage.name, count(most[stage.name]), count(stage.graphs), significant(stage.node_hours * share),
            significant(stage.node_hours), MISSING if kwh is None else significant(kwh * share),
            MISSING if kwh is None else significant(kwh), percent(1.0 / share),
        )
        for stage in view.energy.stages
        if stage.graphs and most.get(stage.name)
        for share, kwh in ((most[stage.name] / stage.graphs, None if stage.tasks is None else stage.tasks.kwh),)
    )  # fmt: skip
    columns = (
        Column("Stage"), Column("Graphs: plan", True), Column("used", True), Column("Node-hours: plan", True),
        Column("used", True), Column("kWh: plan", True), Column("used", True), Column("Used of plan", True),
    )  # fmt: skip
    note = "The plan is what the settings allow at most, at this campaign's node-hours and kWh per graph of the stage."
    return Table(columns, rows, note)


def planned_graphs(view: CampaignView) -> dict[str, int]:
    """Return the largest number of graphs by stage that trains; {} for settings that this version does not read."""
    from pydantic import ValidationError  # here: `status` does not need this slow import

    from gfm_pipeline.engine.stages.table import stages_of
    from gfm_pipeline.workflow.sections import workflow_model

    # Limits of earlier versions had other keys, and change no training.
    settings = {name: value for name, value in view.resolved.items() if name != "limits"}
    try:
        workflow = workflow_model().model_validate(settings)
    except ValidationError:
        return {}
    return {stage.name: stage.graphs(workflow) for stage in stages_of(workflow) if stage.trains}
