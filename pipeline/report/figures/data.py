"""Figures of a dataset: elements, sizes, energies, forces."""

from __future__ import annotations

from dataclasses import dataclass

from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from gfm_pipeline.core.contracts.ingest.report import Histogram, IngestReport
from gfm_pipeline.report.figures.canvas import SERIES, SURFACE, Canvas, count_axis, log_axis, round_numbers, styled
from gfm_pipeline.report.text import count, short_count

_SIZE = (300, 230)  # CSS pixels; four figures per row
_LEAST = 0.5  # base of a logarithmic bar: one record is still visible
# Rows of symbols, and their size, up to a number of elements.
_ROWS = ((14, 1, 8.5), (28, 2, 7.5), (48, 3, 7.0), (72, 4, 6.5), (120, 5, 6.0))


@styled
def elements(report: IngestReport, dataset: str, name: str) -> str | None:
    """Draw the atoms of every element as bars, and the structures that contain it as points."""
    found = report.elements
    if not found:
        return None
    canvas = Canvas(name, *_SIZE)
    axes = canvas.axes
    places = range(len(found))
    axes.bar(places, [max(_LEAST, e.atoms) for e in found], bottom=0.0, color=SERIES[0], width=0.8)
    rows, font = next((rows, font) for most, rows, font in _ROWS if len(found) <= most)
    size, edge = (4.5, 1.0) if rows < 3 else (2.5, 0.3)  # to keep them apart
    axes.plot(
        places, [e.structures for e in found], "o", color=SERIES[1], markersize=size, markeredgecolor=SURFACE,
        markeredgewidth=edge,
    )  # fmt: skip
    _log_counts(canvas, max(e.atoms for e in found))
    axes.set_xlim(-0.7, len(found) - 0.3)
    axes.set_xticks(list(places), ["\n" * (k % rows) + e.symbol for k, e in enumerate(found)], fontsize=font)
    axes.grid(False, axis="x")
    axes.set_title("Elements")
    handles = [
        Line2D([], [], color=SERIES[0], linewidth=5, label="atoms"),
        Line2D([], [], color=SERIES[1], marker="o", linestyle="", markersize=4.5, label="structures with it"),
    ]
    canvas.figure.legend(handles=handles, loc="outside lower left", ncols=2, borderpad=0.0, columnspacing=1.2)
    return canvas.svg(f"{dataset}: atoms and structures of {count(len(found))} elements.")


@styled
def sizes(report: IngestReport, dataset: str, name: str) -> str | None:
    """Draw the histogram of atoms per structure."""
    return _histogram(report.sizes, _Words("Sizes", "atoms of a structure", "structures", whole=True), dataset, name)


@styled
def energies(report: IngestReport, dataset: str, name: str) -> str | None:
    """Draw the histogram of energies relative to the reference energies."""
    words = _Words("Energy minus references", "meV/atom", "structures")
    return _histogram(report.energies, words, dataset, name, unit=1000.0)


@styled
def forces(report: IngestReport, dataset: str, name: str) -> str | None:
    """Draw absolute force components; their counts span decades, so the axis of counts is logarithmic."""
    words = _Words("Absolute force components", "eV/Å", "components", log=True)
    return _histogram(report.forces, words, dataset, name)


@dataclass(frozen=True)
class _Words:
    """Title and axes of a histogram; ``whole`` for values that are whole numbers, ``log`` for the axis of counts."""

    title: str
    across: str
    upward: str
    whole: bool = False
    log: bool = False


def _histogram(found: Histogram, words: _Words, dataset: str, name: str, unit: float = 1.0) -> str | None:
    """Draw bars between the edges times ``unit``."""
    if not found.counts:
        return None
    canvas = Canvas(name, *_SIZE)
    axes = canvas.axes
    edges = [unit * edge for edge in found.edges]
    if not edges[-1] > edges[0]:  # one number only: a bar of some width around it
        half = 0.01 * abs(edges[0]) or 0.5
        edges = [edges[0] - half, edges[0] + half]
    foot = _LEAST if words.log else 0.0
    axes.stairs([max(foot, n) for n in found.counts], edges, baseline=foot, fill=True, color=SERIES[0])
    if words.log:
        _log_counts(canvas, max(found.counts))
    else:
        axes.set_ylim(bottom=0.0)
        count_axis(axes.yaxis)
        axes.yaxis.set_major_locator(round_numbers(integer=True))
    if len(found.counts) == 1:  # a bar, not a full panel
        axes.set_xlim(*(edge + sign * 2.0 * (edges[-1] - edges[0]) for edge, sign in zip(edges, (-1, 1), strict=True)))
    axes.xaxis.set_major_locator(round_numbers(integer=words.whole))
    axes.tick_params(axis="x", pad=6.0)  # room for the two numbers at the corner
    axes.set_xlabel(words.across)
    axes.set_ylabel(words.upward)
    axes.set_title(words.title)
    return canvas.svg(f"{dataset}: {words.title.lower()} of {count(sum(found.counts))} {words.upward}.")


def _log_counts(canvas: Canvas, most: int) -> None:
    canvas.axes.set_ylim(_LEAST, 2.0 * max(1, most))
    log_axis(canvas.axes, "y")
    canvas.axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short_count(value)))
