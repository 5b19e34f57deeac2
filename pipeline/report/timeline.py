"""The times and nodes of all attempts, from the journal, drawn as a timeline."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from gfm_pipeline.campaign.paths import CampaignPaths
from gfm_pipeline.campaign.stage_state import TaskStatus
from gfm_pipeline.campaign.state import CampaignState, load_state
from gfm_pipeline.report.text import duration

MOST_LINES, MOST_BARS = 80, 4000
WIDTH, LINE, LEFT, TOP = 1000.0, 16.0, 150.0, 22.0  # of the drawing, in its units
TICKS = 5


@dataclass(frozen=True)
class AttemptBar:
    """One attempt: its task, its begin and end (Unix times), its nodes, and its outcome."""

    stage: str
    task: str
    number: int
    begin: float
    end: float
    nodes: tuple[str, ...]
    outcome: str  # ok, diverged, preempted, ...; running


def load_timeline(campaign: Path) -> tuple[AttemptBar, ...]:
    """Return every attempt of a campaign, the earliest first.

    Raises
    ------
    IntegrityError
        When the journal is damaged.
    """
    return timeline(load_state(CampaignPaths(campaign.resolve()).journal))


def timeline(state: CampaignState) -> tuple[AttemptBar, ...]:
    """Return every attempt, the earliest first; a running attempt ends with the newest event."""
    bars = []
    for stage, task in state.all_tasks():
        for one in task.history:
            nodes = one.nodes or ((one.host,) if one.host else ())
            end = one.started + one.seconds
            bars.append(AttemptBar(stage.stage, task.name, one.number, one.started, end, nodes, str(one.outcome)))
        if task.status is TaskStatus.RUNNING:
            end = max(task.started, state.last_event)
            bars.append(AttemptBar(stage.stage, task.name, task.attempt, task.started, end, task.nodes, "running"))
    return tuple(sorted(bars, key=lambda bar: (bar.begin, bar.stage, bar.task)))


def hosts(bars: Iterable[AttemptBar]) -> tuple[str, ...]:
    """Return the names of the nodes of tasks."""
    return tuple(sorted({node for bar in bars for node in bar.nodes}))


@dataclass(frozen=True)
class _NodeLine:
    """One line of the drawing: a node, or a slot of a node, with its attempts in order."""

    name: str
    bars: tuple[AttemptBar, ...]


def lines(bars: Sequence[AttemptBar]) -> list[_NodeLine]:
    """Assign attempts to lines: overlapping attempts of a node get separate lines."""
    by_node: dict[str, list[AttemptBar]] = {}
    for bar in bars:
        for node in bar.nodes or ("",):
            by_node.setdefault(node, []).append(bar)
    found = []
    for node, mine in sorted(by_node.items()):
        slots: list[list[AttemptBar]] = []
        for bar in mine:
            free = next((slot for slot in slots if slot[-1].end <= bar.begin + 1e-3), None)
            if free is None:
                slots.append([bar])
            else:
                free.append(bar)
        found += [_NodeLine(node if k == 0 else "", tuple(slot)) for k, slot in enumerate(slots)]
    return found


def draw(bars: Sequence[AttemptBar]) -> str | None:
    """Return the drawing as SVG, or None for a campaign without attempts; the page's style colours it.

    The drawing has at most `MOST_BARS` attempts (the longest) and `MOST_LINES` lines (the first), and says so.
    """
    if not bars:
        return None
    longest = sorted(sorted(bars, key=lambda b: b.begin - b.end)[:MOST_BARS], key=lambda b: b.begin)
    drawn = lines(longest)
    first, last = min(b.begin for b in bars), max(b.end for b in bars)
    scale = (WIDTH - LEFT - 10.0) / max(last - first, 1e-9)
    shown = drawn[:MOST_LINES]
    height = TOP + LINE * len(shown) + 26.0
    label = f"{len(longest)} attempts at tasks on {len(hosts(bars)) or 1} nodes over {duration(last - first)}"
    parts = [f'<svg class="timeline" viewBox="0 0 {WIDTH:g} {height:g}" role="img" aria-label="{escape(label)}">']
    for k in range(TICKS + 1):
        x = LEFT + k * (WIDTH - LEFT - 10.0) / TICKS
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{height - 24:.1f}"/>')
        text = "0" if not k else duration(k * (last - first) / TICKS)
        anchor = "end" if k == TICKS else "middle"
        parts.append(f'<text x="{x:.1f}" y="{TOP - 8}" text-anchor="{anchor}">{escape(text)}</text>')
    for row, line in enumerate(shown):
        y = TOP + row * LINE
        if line.name:
            parts.append(f'<text x="{LEFT - 8:g}" y="{y + 11:.1f}" text-anchor="end">{escape(line.name[-20:])}</text>')
        parts += [_bar(bar, LEFT + scale * (bar.begin - first), y, scale) for bar in line.bars]
    if len(drawn) > len(shown) or len(longest) < len(bars):
        left = f"{len(shown)} of {len(drawn)} lines, {len(longest)} of {len(bars)} attempts (the longest) are drawn"
        parts.append(f'<text x="{LEFT:g}" y="{height - 6:.1f}">{left}</text>')
    return "".join([*parts, "</svg>"])


def _bar(bar: AttemptBar, x: float, y: float, scale: float) -> str:
    width = max(0.8, scale * (bar.end - bar.begin) - 0.4)
    words = f"{bar.stage}/{bar.task}, attempt {bar.number}: {bar.outcome}, {duration(bar.end - bar.begin)}"
    kind = bar.stage if bar.outcome in ("ok", "diverged", "running") else "lost"
    return (
        f'<rect class="{escape(kind)}" x="{x:.2f}" y="{y + 2:.1f}" width="{width:.2f}" height="{LINE - 4:g}" rx="2">'
        f"<title>{escape(words)}</title></rect>"
    )
