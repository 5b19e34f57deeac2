"""The report's figures, each one panel of inline SVG; None without data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D

from gfm_pipeline.core.contracts.targets import ENERGY, FORCES
from gfm_pipeline.report.figures.canvas import (
    INK,
    MUTED,
    SERIES,
    SURFACE,
    Canvas,
    count_axis,
    legend_above,
    log_axis,
    styled,
)
from gfm_pipeline.report.text import flatten
from gfm_pipeline.report.view import CampaignView, CandidateView, CurvePoint

_MARKERS = "osD^v<>ph"  # of targets
_ENDED_EARLY = ("stopped", "diverged", "failed")


def algorithm_of(settings: Mapping[str, Any]) -> str:
    """Return the message passing algorithm of a candidate, or "model" when its settings name none."""
    flat = flatten(settings)
    return next((str(v) for k, v in flat.items() if k.rsplit(".", 1)[-1] == "algorithm"), "model")


def algorithm_colors(view: CampaignView) -> dict[str, str]:
    """Return the colour of every algorithm, the same in all figures."""
    names = sorted(
        {algorithm_of(c.settings) for c in view.candidates} | {algorithm_of(m.settings) for m in view.members}
    )
    return {name: SERIES[i % len(SERIES)] for i, name in enumerate(names)}


@styled
def search_progress(view: CampaignView) -> str | None:
    """Draw the objective of every finished rung over the search's training graphs, and the best so far."""
    events = sorted((c.wave, r.rung, c.name, r, c) for c in view.candidates for r in c.rungs if r.objective is not None)
    if not events:
        return None
    colors = algorithm_colors(view)
    canvas = Canvas("search", 590, 350)
    axes = canvas.axes
    spent, best = 0, float("inf")
    line_x, line_y = [], []
    points: dict[tuple[str, bool], list[tuple[int, float]]] = {}  # by colour, and by whether the candidate ended there
    for _, _, _, rung, candidate in events:
        earlier = [r.graphs for r in candidate.rungs if r.rung < rung.rung]
        spent += rung.graphs - max(earlier, default=0)
        value = float(rung.objective or 0.0)
        best = min(best, value)
        line_x.append(spent)
        line_y.append(best)
        ended = candidate.status in _ENDED_EARLY and rung is candidate.rungs[-1]
        points.setdefault((colors[algorithm_of(candidate.settings)], ended), []).append((spent, value))
    for (color, ended), found in points.items():  # one artist per point would take half a minute for 10,000 candidates
        style: dict[str, Any] = (
            {"marker": "x", "markersize": 5.5, "markeredgewidth": 1.5}
            if ended
            else {"marker": "o", "markersize": 6.5, "markeredgecolor": SURFACE}
        )
        axes.plot(*zip(*found, strict=True), linestyle="", color=color, zorder=3, **style)
    axes.step(line_x, line_y, where="post", color=INK, linewidth=1.4, zorder=2)
    log_axis(axes, "y")
    count_axis(axes.xaxis)
    axes.set_xlim(left=0)
    axes.set_xlabel("graphs trained on by the whole search, in order of wave and rung")
    axes.set_ylabel("objective (1 = nothing learned)")
    handles = [Line2D([], [], color=c, marker="o", linestyle="", label=name) for name, c in colors.items()]
    handles += [
        Line2D([], [], color=MUTED, marker="x", markeredgewidth=1.5, linestyle="", label="ended here"),
        Line2D([], [], color=INK, linewidth=1.4, label="best so far"),
    ]
    legend_above(canvas, handles)
    return canvas.svg(f"Objective of {len(events)} finished rungs; the best so far is {best:.4f}.")


@styled
def candidate_curves(view: CampaignView) -> str | None:
    """Draw the validation objective of every candidate; early stopped ones in grey."""
    drawn = [c for c in view.candidates if c.curve]
    if not drawn:
        return None
    colors = algorithm_colors(view)
    canvas = Canvas("candidates", 590, 350)
    axes = canvas.axes
    curves: dict[tuple[bool, str], list[tuple[CurvePoint, ...]]] = {}
    for candidate in sorted(drawn, key=_stopped_first):
        early = candidate.status in _ENDED_EARLY
        color = MUTED if early else colors[algorithm_of(candidate.settings)]
        curves.setdefault((early, color), []).append(candidate.curve)
    for (early, color), group in curves.items():
        _curves(canvas, group, color, width=1.0 if early else 1.8, alpha=0.45 if early else 1.0)
    handles = [
        Line2D([], [], color=color, label=name)
        for name, color in colors.items()
        if any(algorithm_of(c.settings) == name and c.status not in _ENDED_EARLY for c in drawn)
    ]
    if any(c.status in _ENDED_EARLY for c in drawn):
        handles.append(Line2D([], [], color=MUTED, alpha=0.6, label="ended early"))
    if stops := [c.curve[-1] for c in drawn if c.status == "stopped"]:
        axes.plot([p.graphs for p in stops], [p.objective for p in stops], "x", color=MUTED, markersize=5, zorder=3)
        handles.append(Line2D([], [], color=MUTED, marker="x", linestyle="", label="stopped"))
    _finish_curves(canvas)
    for graphs in sorted({rung.graphs for candidate in drawn for rung in candidate.rungs}):
        axes.axvline(graphs, color=MUTED, linewidth=0.8, linestyle=":", zorder=1)
    legend_above(canvas, handles)
    axes.set_xlabel("graphs seen by the candidate")
    return canvas.svg(f"Validation objective of {len(drawn)} candidates over graphs seen.")


@styled
def member_curves(view: CampaignView) -> str | None:
    """Draw the validation objective of every member of the ensemble."""
    drawn = [m for m in view.members if m.curve]
    if not drawn:
        return None
    canvas = Canvas("members", 590, 350)
    handles = []
    for i, member in enumerate(drawn):
        color = SERIES[i % len(SERIES)]
        _curves(canvas, [member.curve], color, width=1.8, alpha=1.0)
        last = member.curve[-1]
        canvas.axes.plot(last.graphs, last.objective, "o", color=color, markersize=5, markeredgecolor=SURFACE)
        handles.append(Line2D([], [], color=color, label=member.name))
    _finish_curves(canvas)
    legend_above(canvas, handles)
    canvas.axes.set_xlabel("graphs seen in the member's life")
    return canvas.svg(f"Validation objective of {len(drawn)} members over graphs seen.")


@styled
def member_errors(view: CampaignView) -> str | None:
    """Draw the validation errors of every member relative to a model that learned nothing."""
    drawn = [m for m in view.members if m.errors]
    names = list(dict.fromkeys(name for m in drawn for name in m.errors))
    if not names:
        return None
    canvas = Canvas("errors", 590, 350)
    axes = canvas.axes
    handles = []
    others = dict.fromkeys(other for m in drawn for found in m.errors.values() for other in found.others)
    markers = dict(zip((FORCES.name, ENERGY.name, *others), cycle(_MARKERS), strict=False))
    for i, name in enumerate(names):
        color = SERIES[i % len(SERIES)]
        for row, member in enumerate(drawn):
            if name not in member.errors:
                continue
            offset = row + 0.5 * ((i + 0.5) / len(names) - 0.5)
            found = {e.target.name: e.ratio for e in member.errors[name].by_target() if e.ratio is not None}
            for target, value in found.items():
                axes.plot(value, offset, markers[target], color=color, markersize=7.5, markeredgecolor=SURFACE)
            axes.plot(list(found.values()), [offset] * len(found), color=color, linewidth=1.2, alpha=0.5, zorder=1)
        handles.append(Line2D([], [], color=color, linewidth=3, label=name))
    handles += [
        Line2D([], [], color=MUTED, marker=marker, linestyle="", label=label) for label, marker in markers.items()
    ]
    axes.set_yticks(range(len(drawn)), [m.name for m in drawn])
    axes.set_ylim(len(drawn) - 0.4, -0.6)
    axes.set_xlim(0, max(0.05, 1.1 * axes.get_xlim()[1]))
    axes.grid(False, axis="y")
    axes.set_xlabel("validation MAE over that of a model that learned nothing")
    legend_above(canvas, handles)
    return canvas.svg(f"Validation errors of {len(drawn)} members.")


def _stopped_first(candidate: CandidateView) -> bool:
    return candidate.status not in _ENDED_EARLY


def _curves(canvas: Canvas, curves: Sequence[tuple[CurvePoint, ...]], color: str, width: float, alpha: float) -> None:
    """Draw curves in one style; a curve with a single validation is a point."""
    lines = [[(p.graphs, p.objective) for p in curve] for curve in curves if len(curve) > 1]
    style: dict[str, Any] = {"color": color, "alpha": alpha}
    canvas.axes.add_collection(LineCollection(lines, linewidths=width, capstyle="round", joinstyle="round", **style))
    dots = [curve[0] for curve in curves if len(curve) == 1]
    x, y = [p.graphs for p in dots], [p.objective for p in dots]
    canvas.axes.plot(x, y, linestyle="", marker="o", markersize=3, **style)
    canvas.axes.autoscale_view()


def _finish_curves(canvas: Canvas) -> None:
    log_axis(canvas.axes, "y")
    count_axis(canvas.axes.xaxis)
    canvas.axes.set_xlim(left=0)
    canvas.axes.set_ylabel("validation objective")
