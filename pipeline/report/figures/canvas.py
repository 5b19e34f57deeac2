"""Axes in the report's style, and conversion from matplotlib to SVG with the page's light or dark colours.

Figures use placeholder colours; in the SVG, each becomes a CSS variable of the page. Text stays
text, so it takes the page's font and can be searched. The module changes no global state of matplotlib.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import wraps
from io import StringIO
from typing import Any, Literal, ParamSpec, TypeVar

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.axis import XAxis, YAxis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from gfm_pipeline.report.text import short_count

#: Placeholder -> CSS variable. A viewer without the page's style shows the placeholder colours.
INK, MUTED, GRID, SURFACE = "#1d2330", "#667085", "#e4e7ec", "#fdfdfe"
#: Okabe and Ito's colours, distinct for every common colour blindness; without black and yellow.
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--grid",
    SURFACE: "--surface",
    **{color: f"--series-{i + 1}" for i, color in enumerate(SERIES)},
}
_PLACES = re.compile(r'(?<= )(?:d|x|y)="[^"]*"')  # attributes of paths and markers
_DIGITS = re.compile(r"(\.\d\d)\d+")  # more than hundredths of a pixel: a third of the page of a large search
_COLOR = re.compile(rf"(?<=[ :])(?:{'|'.join(_VARIABLES)})\b")

_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "gfm-pipeline",
    "font.size": 8.5,
    "font.family": "sans-serif",
    "text.parse_math": False,  # names of datasets and candidates may contain a dollar sign
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.titlesize": 9.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.major.size": 0.0,
    "ytick.major.size": 0.0,
    "xtick.minor.size": 0.0,
    "ytick.minor.size": 0.0,
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "legend.handlelength": 1.4,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "lines.solid_capstyle": "round",
}


P = ParamSpec("P")
R = TypeVar("R")


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Run a drawing function in the report's style without changing matplotlib's settings."""

    @wraps(draw)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        with mpl.rc_context(_STYLE):  # type: ignore[arg-type]  # its keys are literals from matplotlib 3.11 on
            return draw(*args, **kwargs)

    return wrapper


class Canvas:
    """One panel: a figure with one pair of axes. Used inside a `styled` function.

    Parameters
    ----------
    name
        Prefix of every id in the SVG, so that one page can contain many figures.
    width, height
        Size on the page in CSS pixels.
    """

    def __init__(self, name: str, width: int, height: int) -> None:
        self.name = name
        self.figure = Figure(figsize=(width / 100.0, height / 100.0), layout="constrained")
        self.axes: Axes = self.figure.add_subplot()

    def svg(self, label: str) -> str:
        """Return the panel as an ``<svg>`` element; ``label`` is for screen readers."""
        stream = StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        self.figure.savefig(stream, format="svg", metadata=nothing, dpi=200)
        return _for_page(stream.getvalue(), self.name, label)


def _for_page(text: str, name: str, label: str) -> str:
    text = text[text.index("<svg") :]
    head, rest = text.split(">", 1)
    box = re.search(r'viewBox="[^"]*"', head)
    # HTML implies the namespaces; without them, the page contains no address at all.
    head = f'<svg {box.group(0) if box else ""} role="img" aria-label="{_attribute(label)}"'
    rest = re.sub(r"\s*<metadata>.*?</metadata>", "", rest, flags=re.DOTALL)
    rest = _PLACES.sub(lambda found: _DIGITS.sub(r"\1", found[0]), rest)
    rest = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', rest)
    rest = re.sub(r'xlink:href="#([^"]+)"', rf'href="#{name}-\1"', rest)
    rest = rest.replace("xlink:href=", "href=").replace("url(#", f"url(#{name}-")
    rest = _COLOR.sub(lambda found: f"var({_VARIABLES[found[0]]})", rest)
    return f"{head}>{rest}"


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")


def log_axis(axes: Axes, which: Literal["x", "y"]) -> None:
    """Make one axis logarithmic with plain, sparse numbers; for a range below a factor of two, use even spacing."""
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    axis = axes.xaxis if which == "x" else axes.yaxis
    low, high = sorted(axis.get_view_interval())
    decades = high / max(low, 1e-300)
    subs: tuple[float, ...] = (1.0,) if decades > 300 else (1.0, 3.0) if decades > 30 else (1.0, 2.0, 5.0)
    if decades < 8.0:
        subs = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)
    axis.set_major_locator(round_numbers() if decades < 2.0 else LogLocator(base=10.0, subs=subs))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.6g}"))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def round_numbers(integer: bool = False) -> MaxNLocator:
    """Return the ticks of a small panel: about five multiples of 1, 2 or 5, so that 0 or 1 is among them."""
    return MaxNLocator(5, steps=[1, 2, 5, 10], integer=integer)


def count_axis(axis: XAxis | YAxis) -> None:
    """Label an axis with short counts (2k, 1.5M)."""
    axis.set_major_locator(MaxNLocator(6))
    axis.set_major_formatter(FuncFormatter(lambda value, _: short_count(value)))


def legend_above(canvas: Canvas, handles: list[Line2D]) -> None:
    """Draw the legend above the axes, where it hides no data."""
    rows = -(-len(handles) // 6)
    canvas.figure.legend(
        handles=handles, loc="outside upper left", ncols=-(-len(handles) // rows), columnspacing=1.2, handletextpad=0.5,
        borderpad=0.0,
    )  # fmt: skip
