"""The candidates of a search as a table: ranked, with the settings in which they differ."""

from __future__ import annotations

from typing import Any

from gfm_pipeline.report.tables.table import Column, Table
from gfm_pipeline.report.text import (
    MISSING,
    duration,
    flatten,
    objective,
    plain,
    short_count,
    significant,
    symbol,
)
from gfm_pipeline.report.view import CampaignView, CandidateView, KilowattHours

_STATUS_ORDER = {"selected": 0, "running": 1, "finished": 2, "stopped": 3, "diverged": 4, "failed": 5}


_ABBREVIATED = {"learning rate": "lr", "batch size": "batch", "force weight": "force"}


def candidate_settings(candidates: tuple[CandidateView, ...]) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """Split settings into common ones (as text) and different ones, flattened, one dict per candidate."""
    flat = [flatten(c.settings) for c in candidates]
    keys = list(dict.fromkeys(key for one in flat for key in one))
    shared = {
        key: plain(flat[0][key])
        for key in keys
        if len(flat) > 1 and all(key in one for one in flat) and len({plain(one[key]) for one in flat}) == 1
    }
    return shared, [{key: value for key, value in one.items() if key not in shared} for one in flat]


def short_names(keys: list[str]) -> dict[str, str]:
    """Return a short name of each dotted key: its last part where no other key has it."""
    last = [key.rsplit(".", 1)[-1] for key in keys]
    return {
        key: (short if last.count(short) == 1 else key).replace("_", " ") for key, short in zip(keys, last, strict=True)
    }


def one_line(settings: dict[str, Any]) -> str:
    """Return flattened settings in one line: names without their section, the algorithm first and without its name."""
    names = {key: _ABBREVIATED.get(name, name) for key, name in short_names(list(settings)).items()}
    first = [plain(value) for key, value in settings.items() if names[key] == "algorithm"]
    return " ".join(first + [f"{names[key]} {plain(v)}" for key, v in settings.items() if names[key] != "algorithm"])


def best_objective(candidate: CandidateView) -> float | None:
    """Return the objective of the last rung with an objective."""
    values = [rung.objective for rung in candidate.rungs if rung.objective is not None]
    return values[-1] if values else None


def best_error(candidate: CandidateView) -> float | None:
    """Return the standard error of `best_objective`."""
    values = [rung.error for rung in candidate.rungs if rung.objective is not None]
    return values[-1] if values else None


def ranked(candidates: tuple[CandidateView, ...]) -> tuple[CandidateView, ...]:
    """Return candidates, best first: selected ones, then by the highest rung, then by objective."""

    def key(candidate: CandidateView) -> tuple[float, ...]:
        value = best_objective(candidate)
        status = _STATUS_ORDER.get(candidate.status, 9)
        return (status, -len(candidate.rungs), float("inf") if value is None else value)

    return tuple(sorted(candidates, key=key))


def candidates(view: CampaignView) -> Table:
    """Every candidate with its hyperparameters, its rungs, and the reason of its end."""
    order = ranked(view.candidates)
    shared, own = candidate_settings(order)
    keys = list(dict.fromkeys(key for one in own for key in one))
    names = short_names(keys)
    rows = []
    for candidate, settings in zip(order, own, strict=True):
        rungs = " → ".join(objective(r.objective, 3) for r in candidate.rungs) or MISSING
        graphs = short_count(candidate.rungs[-1].graphs) if candidate.rungs else MISSING
        rows.append(
            (
                candidate.name,
                str(candidate.wave),
                *(plain(settings.get(key)) for key in keys),
                rungs,
                graphs,
                duration(sum(r.seconds for r in candidate.rungs)) if candidate.rungs else MISSING,
                _kilowatt_hours(candidate.energy),
                MISSING if candidate.joules_per_graph is None else significant(candidate.joules_per_graph),
                f"{symbol(candidate.status)} {candidate.status}",
                candidate.outcome or (f"running {candidate.running_task}" if candidate.running_task else MISSING),
            )
        )
    values = [plain(one.get(key)) for one in own for key in keys]
    numeric = {key: all(is_number(one.get(key)) for one in own) for key in keys} if values else {}
    columns = (
        Column("Candidate"), Column("Wave", True),
        *(Column(names[key][:1].upper() + names[key][1:], numeric[key]) for key in keys),
        Column("Objective at each rung"), Column("Graphs", True), Column("Task time", True), Column("kWh", True),
        Column("J per graph", True), Column("Status"), Column("Outcome and evidence"),
    )  # fmt: skip
    note = "Objective: mean ratio of errors to those of a model that learned nothing; 1: nothing learned, 0: perfect."
    if shared:
        names = short_names(list(shared))
        note += " Settings that all candidates share: " + ", ".join(f"{names[k]} {v}" for k, v in shared.items()) + "."
    return Table(columns, tuple(rows), note)


def _kilowatt_hours(energy: KilowattHours | None) -> str:
    return MISSING if energy is None else f"{significant(energy.kwh)} {energy.label}"


def is_number(value: Any) -> bool:
    """Return whether a setting is a number, or missing."""
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))
