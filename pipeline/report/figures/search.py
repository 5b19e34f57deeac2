"""Figures of a search's hyperparameters, and of its Pareto front; each one panel of inline SVG, None without data."""

from __future__ import annotations

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from gfm_pipeline.report.figures.campaign import algorithm_colors, algorithm_of
from gfm_pipeline.report.figures.canvas import INK, MUTED, SERIES, SURFACE, Canvas, legend_above, log_axis, styled
from gfm_pipeline.report.hyperparameters import Importances, SearchAxis, hyperparameters
from gfm_pipeline.report.tables.candidates import best_objective
from gfm_pipeline.report.text import significant
from gfm_pipeline.report.view import CampaignView, CandidateView

MOST_LINES = 1000  # other candidates that are drawn
BEST = 0.1  # share of candidates in the second colour
MOST_LABELS = 8  # categories of an axis with a label
Floats = NDArray[np.float64]


@styled
def parallel_coordinates(view: CampaignView) -> str | None:
    """Draw candidates as lines through their hyperparameters and their objective at the last rung they reached.

    At most `MOST_LINES` of each kind (members, best, others) are drawn, evenly chosen.
    """
    scored = [(value, c) for c in view.candidates if (value := best_objective(c)) is not None and value > 0.0]
    drawn = tuple(c for _, c in scored)
    axes_of = hyperparameters(drawn) if len(drawn) > 1 else ()
    if not axes_of:
        return None
    objective = SearchAxis("objective", tuple(value for value, _ in scored))
    columns = (*axes_of, objective)
    canvas = Canvas("parallel", 1190, 380)
    box = {"facecolor": SURFACE, "edgecolor": "none", "pad": 1.0, "alpha": 0.9}
    heights = np.column_stack([_height(one, log=one is objective) for one in columns])
    x = np.arange(len(columns), dtype=np.float64)
    order = np.argsort([value for value, _ in scored], kind="stable")
    best = set(order[: max(1, round(BEST * len(order)))].tolist())
    styles = {"selected": (SERIES[0], 2.0, 0.95), "best": (SERIES[1], 1.4, 0.8), "other": (MUTED, 0.8, 0.35)}
    kinds = ["selected" if c.status == "selected" else "best" if k in best else "other" for k, c in enumerate(drawn)]
    for z, kind in enumerate(("other", "best", "selected")):
        color, width, alpha = styles[kind]
        own = [k for k in range(len(drawn)) if kinds[k] == kind]
        lines = [np.column_stack((x, heights[k])) for k in own[:: -(-len(own) // MOST_LINES) or 1]]
        group = LineCollection(lines, colors=color, linewidths=width, alpha=alpha, zorder=2 + z)
        canvas.axes.add_collection(group)
    for place, one in enumerate(columns):
        canvas.axes.axvline(place, color=MUTED, linewidth=0.7, zorder=1)
        for height, text in _labels(one, log=one is objective):
            canvas.axes.text(place + 0.025, height, text, fontsize=7.5, color=INK, va="center", zorder=6, bbox=box)
    canvas.axes.set_xticks(x, [one.name for one in columns])
    canvas.axes.set_yticks([])
    canvas.axes.grid(False)
    canvas.axes.spines[["left", "bottom"]].set_visible(False)
    canvas.axes.set_xlim(-0.05, len(columns) - 0.75)
    canvas.axes.set_ylim(-0.06, 1.06)
    names = {"selected": "members of the ensemble", "best": f"best {BEST:.0%}", "other": "other candidates"}
    handles = [Line2D([], [], color=styles[k][0], linewidth=2, label=names[k]) for k in names if k in kinds]
    legend_above(canvas, handles)
    return canvas.svg(f"Parallel coordinates of {len(drawn)} candidates: {', '.join(one.name for one in columns)}.")


def _height(one: SearchAxis, log: bool) -> Floats:
    """Return the places of the values on an axis from 0 to 1 [n]; a missing number is below it."""
    values = np.log(one.numbers) if log or one.logarithmic else one.numbers
    known = values[np.isfinite(values)]
    low, high = float(known.min()), float(known.max())
    return np.where(np.isfinite(values), (values - low) / (high - low) if high > low else 0.5, -0.05)


def _labels(one: SearchAxis, log: bool) -> list[tuple[float, str]]:
    """Return heights and texts of an axis: categories, few numbers, or both ends."""
    heights, found = _height(one, log), {}
    for height, number, value in zip(heights, one.numbers, one.values, strict=True):
        if value is None:
            continue
        found[round(float(height), 6)] = f"{number:.3g}" if one.numeric else one.categories[int(number)]
    if len(found) > MOST_LABELS:
        found = {height: found[height] for height in (min(found), max(found))}
    return list(found.items())


@styled
def importance_bars(found: Importances) -> str:
    """Draw the importance of each hyperparameter as a bar."""
    canvas = Canvas("importances", 590, 350)
    axes = canvas.axes
    places = range(len(found.names))
    axes.barh(places, found.values, xerr=found.errors, color=SERIES[0], error_kw={"ecolor": MUTED, "elinewidth": 1.0})
    axes.set_yticks(list(places), list(found.names))
    axes.invert_yaxis()
    axes.axvline(0.0, color=MUTED, linewidth=0.8)
    axes.grid(False, axis="y")
    axes.set_xlabel("variance of the objective at the first rung that is not predicted without it")
    words = ", ".join(f"{name} {value:.2f}" for name, value in zip(found.names, found.values, strict=True))
    return canvas.svg(f"Importance of hyperparameters: {words}.")


def front(candidates: tuple[CandidateView, ...]) -> list[tuple[float, float, CandidateView]]:
    """Return energy (kWh), objective and candidate where no candidate has less of both; the least energy first."""
    best = float("inf")
    found = []
    for kwh, value, candidate in sorted(spent(candidates), key=lambda one: (one[0], one[1], one[2].name)):
        if value < best:
            best = value
            found.append((kwh, value, candidate))
    return found


def spent(candidates: tuple[CandidateView, ...]) -> list[tuple[float, float, CandidateView]]:
    """Return energy (kWh), last objective and candidate of each candidate that has both."""
    return [
        (c.energy.kwh, value, c)
        for c in candidates
        if c.energy is not None and c.energy.kwh > 0.0 and (value := best_objective(c)) is not None and value > 0.0
    ]


@styled
def pareto(view: CampaignView) -> str | None:
    """Draw the objective that each candidate reached over its energy, and the Pareto front."""
    every, best = spent(view.candidates), front(view.candidates)
    if len(every) < 2:
        return None
    canvas, colors = Canvas("pareto", 590, 350), algorithm_colors(view)
    axes = canvas.axes
    for name, color in colors.items():
        for early, marker, edge in ((True, "x", color), (False, "o", SURFACE)):
            points = [(k, v) for k, v, c in every if algorithm_of(c.settings) == name and _early(c) is early]
            x, y = [k for k, _ in points], [v for _, v in points]
            axes.plot(x, y, marker, color=color, markersize=6, markeredgecolor=edge, zorder=3)
    axes.step([k for k, _, _ in best], [v for _, v, _ in best], where="post", color=INK, linewidth=1.4, zorder=2)
    log_axis(axes, "x")
    log_axis(axes, "y")
    axes.set_xlabel("kWh of the candidate")
    axes.set_ylabel("objective at its last rung")
    handles = [Line2D([], [], color=c, marker="o", linestyle="", label=name) for name, c in colors.items()]
    handles.append(Line2D([], [], color=MUTED, marker="x", linestyle="", label="ended early"))
    handles.append(Line2D([], [], color=INK, linewidth=1.4, label="Pareto front"))
    legend_above(canvas, handles)
    words = ", ".join(f"{c.name} {value:.4f} at {significant(kwh)} kWh" for kwh, value, c in best[:8])
    return canvas.svg(f"Objective and energy of {len(every)} candidates. Pareto front: {words}.")


def _early(candidate: CandidateView) -> bool:
    return candidate.status in ("stopped", "diverged", "failed")
