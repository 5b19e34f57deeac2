"""Tables of the energy of a campaign, by use."""

from __future__ import annotations

from gfm_pipeline.report.energy import sentence, shown
from gfm_pipeline.report.tables.table import Column, Table
from gfm_pipeline.report.text import MISSING, significant
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
