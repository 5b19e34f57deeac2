"""Figures of the ensemble on the test split, each one panel of inline SVG; None without data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from gfm_pipeline.core.contracts.evaluation import figure_key
from gfm_pipeline.core.contracts.targets import Level, Reference, Target, typeset
from gfm_pipeline.report.figures.canvas import MUTED, SERIES, SURFACE, Canvas, log_axis, round_numbers, styled
from gfm_pipeline.report.text import percent, significant

Arrays = Mapping[str, NDArray[np.float64]]

_EVALUATION_SIZE = (390, 360)  # CSS pixels; three panels per row
_CORNERS = ((0.66, 0.07), (0.04, 0.70))  # possible places of the histogram of errors, off the diagonal, in axes
_HISTOGRAM = (0.30, 0.22)  # its size
# For thousands of points, a raster layer is smaller and faster. It cannot follow the page's colours, so
# these colours are readable in light and dark.
_RASTER_POINT = "#3d94c9"


def _legend_below(canvas: Canvas, handles: list[Line2D]) -> None:
    """Draw the legend below the axes, where it hides no data."""
    canvas.figure.legend(
        handles=handles, loc="outside lower left", ncols=len(handles), columnspacing=1.2, handletextpad=0.5,
        borderpad=0.0,
    )  # fmt: skip


def _square(axes: Axes) -> None:
    """Give both axes the same scale, and room for the two numbers at their corner."""
    axes.set_aspect("equal")
    axes.tick_params(axis="x", pad=6.0)


def _arrays(evaluation: Arrays, dataset: str, quantity: str, fields: Sequence[str]) -> list[NDArray[np.float64]] | None:
    keys = [figure_key(dataset, quantity, field) for field in fields]
    if any(key not in evaluation for key in keys):
        return None
    return [np.asarray(evaluation[key], dtype=np.float64) for key in keys]


@styled
def parity(
    evaluation: Arrays, dataset: str, target: Target, name: str, of_all: float | None = None, *, whole: bool = False
) -> str | None:
    """Predicted against labelled values of the test split, and the distribution of the errors in the emptier corner.

    The printed error is ``of_all``, the mean over all entries; without it, that of the drawn points. ``whole``: all
    entries are drawn.
    """
    found = _arrays(evaluation, dataset, target.name, ("label", "mean"))
    if found is None or not len(found[0]):
        return None
    label, mean = found
    title, unit, factor = target.heading, target.printed_unit, target.shown_factor
    canvas = Canvas(name, *_EVALUATION_SIZE)
    axes = canvas.axes
    low, high = float(min(label.min(), mean.min())), float(max(label.max(), mean.max()))
    margin = 0.04 * (high - low) or 1.0
    axes.plot([low - margin, high + margin], [low - margin, high + margin], color=MUTED, linewidth=0.9, zorder=1)
    axes.scatter(
        label, mean, s=_point_size(label), color=_RASTER_POINT, alpha=0.4, linewidths=0, rasterized=True, zorder=2
    )
    axes.set_xlim(low - margin, high + margin)
    axes.set_ylim(low - margin, high + margin)
    _square(axes)
    axes.xaxis.set_major_locator(round_numbers())
    axes.yaxis.set_major_locator(round_numbers())
    base = typeset(target.error_unit)
    less = " less references" if target.reference is Reference.ELEMENTS and target.level is Level.GRAPH else ""
    axes.set_xlabel(_with_unit(f"label{less}", base))
    axes.set_ylabel(_with_unit("ensemble mean", base))
    axes.set_title(title)
    error = mean - label
    inset = axes.inset_axes((*_emptier_corner(axes, label, mean), *_HISTOGRAM))
    reach = factor * float(np.quantile(np.abs(error), 0.985)) or 1.0
    inset.hist(factor * error, bins=np.linspace(-reach, reach, 31).tolist(), color=SERIES[0], alpha=0.85)
    inset.set_yticks([])
    inset.grid(False)
    inset.spines["left"].set_visible(False)
    inset.set_xticks([-reach, 0.0, reach], [f"−{significant(reach, 2)}", "0", significant(reach, 2)], fontsize=6.5)
    inset.set_title(_with_unit("error", unit), fontsize=6.5, fontweight="normal", loc="center", pad=2)
    mae = factor * (float(np.abs(error).mean()) if of_all is None else of_all)
    variance = float(np.var(label)) if of_all is None or whole else 0.0  # unknown for a sample
    r2 = f", R² {1.0 - float(np.mean(error**2)) / variance:.3f}" if variance > 0.0 else ""
    text = Line2D([], [], color=_RASTER_POINT, marker="o", linestyle="", label=f"MAE {significant(mae)} {unit}{r2}")
    _legend_below(canvas, [text])
    return canvas.svg(f"{dataset}: predicted against labelled {title.lower()}, MAE {significant(mae)} {unit}.")


def _emptier_corner(axes: Axes, x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float]:
    """Return the lower left corner of the histogram of errors: the place with the fewest points."""
    places = axes.transLimits.transform(np.column_stack((x, y)))

    def hidden(corner: tuple[float, float]) -> int:
        # Its title and numbers are 0.07 above and below it.
        inside = (places > np.subtract(corner, 0.07)) & (places < np.add(corner, _HISTOGRAM) + 0.07)
        return int(inside.all(axis=1).sum())

    return min(_CORNERS, key=hidden)


@styled
def calibration_curve(
    evaluation: Arrays, dataset: str, target: Target, name: str, interval: tuple[float, float] | None = None
) -> str | None:
    """Observed against expected coverage before and after calibration.

    ``interval`` is (level, coverage found) of the conformal interval, drawn as a point.
    """
    found = _arrays(evaluation, dataset, target.name, ("curve_expected", "curve_raw", "curve_calibrated"))
    if found is None:
        return None
    expected, raw, calibrated = found
    canvas = Canvas(name, *_EVALUATION_SIZE)
    axes = canvas.axes
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.9, zorder=1)
    handles: list[Line2D] = []
    for values, color, label in ((raw, SERIES[1], "raw spread"), (calibrated, SERIES[0], "calibrated spread")):
        axes.fill_between(expected, expected, values, color=color, alpha=0.10, linewidth=0)
        handles += axes.plot(expected, values, color=color, linewidth=1.9, label=label)
    if interval is not None:
        handles += axes.plot(
            *interval, "D", color=SERIES[2], markersize=7, markeredgecolor=SURFACE, zorder=4, clip_on=False,
            label=f"{percent(interval[0], 0)} interval: {percent(interval[1])}",
        )  # fmt: skip
    ticks = [0.0, 0.25, 0.5, 0.75, 1.0]
    axes.set_xticks(ticks, [percent(t, 0) for t in ticks])
    axes.set_yticks(ticks, [percent(t, 0) for t in ticks])
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    _square(axes)
    axes.set_xlabel("expected inside the interval")
    axes.set_ylabel("found inside the interval")
    axes.set_title(target.heading)
    _legend_below(canvas, handles)
    return canvas.svg(f"{dataset}: expected against observed coverage of {target.heading.lower()}.")


@styled
def spread_and_error(evaluation: Arrays, dataset: str, target: Target, name: str) -> str | None:
    """Absolute error against calibrated deviation, with the mean error in bins of raw and calibrated spread."""
    found = _arrays(evaluation, dataset, target.name, ("label", "mean", "spread", "deviation"))
    if found is None or len(found[0]) < 2:
        return None
    label, mean, spread, deviation = found
    title, unit, factor = target.heading, target.printed_unit, target.shown_factor
    error = factor * np.abs(mean - label)
    canvas = Canvas(name, *_EVALUATION_SIZE)
    axes = canvas.axes
    x = factor * deviation
    positive = (error > 0) & (x > 0)
    if not positive.any():
        return None
    axes.scatter(
        x[positive],
        error[positive],
        s=_point_size(x),
        color=_RASTER_POINT,
        alpha=0.25,
        linewidths=0,
        rasterized=True,
        zorder=1,
    )
    handles: list[Line2D] = []
    for values, color, text in ((factor * spread, SERIES[1], "raw spread"), (x, SERIES[0], "calibrated deviation")):
        stated, actual = _binned(values, error)
        keep = (stated > 0) & (actual > 0)
        if keep.any():
            handles += axes.plot(
                stated[keep], actual[keep], "o-", color=color, markersize=5.5, linewidth=1.3, markeredgecolor=SURFACE,
                label=f"RMSE by {text}", zorder=3,
            )  # fmt: skip
    low, high = axes.get_xlim()
    low = max(low, float(x[positive].min()) / 20.0)
    ends = np.array([low, high])
    axes.plot(ends, ends, color=MUTED, linewidth=0.9, zorder=2)
    axes.set_ylim(float(np.quantile(error[positive], 0.01)), 1.6 * float(error.max()))
    log_axis(axes, "x")
    log_axis(axes, "y")
    axes.set_xlabel(_with_unit("stated deviation", unit))
    axes.set_ylabel(_with_unit("error", unit))
    axes.set_title(title)
    if handles:
        _legend_below(canvas, handles)
    return canvas.svg(f"{dataset}: error against stated deviation of {title.lower()}, {len(error)} entries.")


def _with_unit(text: str, unit: str) -> str:
    return f"{text}, {unit}" if unit else text


def _point_size(values: NDArray[np.float64]) -> float:
    return 7.0 if len(values) > 500 else 18.0


def _binned(
    values: NDArray[np.float64], error: NDArray[np.float64], bins: int = 10
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    parts = np.array_split(np.argsort(values, kind="stable"), max(1, min(bins, len(values) // 10)))
    stated = np.array([np.sqrt(np.mean(values[p] ** 2)) for p in parts])
    return stated, np.array([np.sqrt(np.mean(error[p] ** 2)) for p in parts])
