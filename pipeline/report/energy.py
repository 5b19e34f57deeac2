"""Energy of a campaign for users: records of the view, and lines and tables of them."""

from __future__ import annotations

from gfm_pipeline.campaign.usage import KWH, TaskUsage, Usage
from gfm_pipeline.core.contracts.energy import EnergyUse
from gfm_pipeline.report.text import MISSING, significant
from gfm_pipeline.report.view import EnergyView, KilowattHours, StageEnergy


def kilowatt_hours(use: EnergyUse | None) -> KilowattHours | None:
    """Return an energy in kWh."""
    if use is None:
        return None
    error = None if use.error is None else use.error / KWH
    return KilowattHours(use.joules / KWH, error, use.label, use.source)


def energy_view(used: Usage) -> EnergyView:
    """Return the energy of a campaign from its journal."""
    return EnergyView(
        kilowatt_hours(used.energy),
        kilowatt_hours(used.tasks),
        kilowatt_hours(used.idle),
        kilowatt_hours(used.overhead),
        kilowatt_hours(used.allocation),
        used.difference,
        tuple(_stage(name, stage) for name, stage in used.stages.items()),
    )


def _stage(name: str, used: TaskUsage) -> StageEnergy:
    return StageEnergy(
        name,
        used.node_seconds / 3600.0,
        kilowatt_hours(used.energy),
        kilowatt_hours(used.lost),
        kilowatt_hours(used.idle),
        used.joules_per_graph,
        used.graphs,
    )


def shown(energy: KilowattHours | None) -> str:
    """Return an energy with its uncertainty and its label, e.g. ``0.214 ± 0.001 kWh (measured, pm_counters)``."""
    if energy is None:
        return MISSING
    error = "" if energy.error is None else f" ± {significant(energy.error)}"
    return f"{significant(energy.kwh)}{error} kWh ({energy.label}, {energy.source})"


def sentence(energy: EnergyView) -> str:
    """Return the uses of the energy, and their agreement with the nodes' counters; '' if none is known."""
    parts = [
        f"{word} {shown(found)}"
        for word, found in (("tasks", energy.tasks), ("idle nodes", energy.idle), ("overhead", energy.overhead))
        if found is not None
    ]
    if not parts:
        return ""
    text = f"{', '.join(parts)}; together {shown(energy.total)}"
    if energy.allocation is None or energy.difference is None:
        return f"{text}."
    return f"{text}. The nodes counted {shown(energy.allocation)}: the sum differs by {energy.difference:+.2%}."
