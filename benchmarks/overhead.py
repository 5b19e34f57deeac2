"""What a trial's time goes into beside training and validation, how fast the command line starts, and large reports.

    python benchmarks/overhead.py CAMPAIGN [CAMPAIGN ...]      campaigns that have run: trainings, from the journals
    python benchmarks/overhead.py --run                        a small campaign, run first (2 minutes)
    python benchmarks/overhead.py [--candidates 10000]         the command line, and a report of so many candidates

Of a campaign: each first attempt of a training that ended well, from the journal's line of its start to that of its
end, and of it what its result says it trained and validated. The rest is starting, opening the dataset, saving, and the
way through Parsl and the driver. The command line: whole processes, medians of seven. The report: a made-up campaign
(`tests/report/synthetic_campaign.py`) with so many candidates, its page rendered in a process of its own. Tables are
Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from gfm_pipeline.campaign import events as ev
from gfm_pipeline.campaign.journal import read
from gfm_pipeline.core.errors import GFMError

TURNS = 7
COMMANDS = (("--help",), ("run", "--help"), ("sites", "list"), ("schema",))
SMALL = {
    "name": "small",
    "data": {
        "sources": {"alloys": {"reader": "emt-alloys", "options": {"parents": 40, "children": 2, "sizes": [8, 16]}}}
    },
    "search": {
        "candidates": 6,
        "rungs": [1024],
        "space": {"algorithm": ["SchNet", "PaiNN"], "hidden": 32, "layers": 2, "cutoff": 5.0, "batch_size": 16},
    },
    "converge": {"members": 2, "max_graphs": 4096, "check_every": 1024},
}
REPORTS = Path(__file__).resolve().parent.parent / "tests" / "report"
_RENDER = """
import dataclasses, sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from synthetic_campaign import candidates, finished_campaign
from gfm_pipeline.report.html import render_html
view, pages = finished_campaign()
many = dataclasses.replace(view, candidates=candidates(np.random.default_rng(1), int(sys.argv[2])))
sys.stderr.write(f"{len(render_html(many, pages)) / 1e6:.1f}")
"""


@dataclass(frozen=True)
class Trial:
    """Seconds of one attempt: from its start to its end, and of them in training and validation."""

    task: str
    wall: float
    useful: float


def trials(campaign: Path) -> list[Trial]:
    """Return the trainings of a campaign that ended well at their first attempt, in the order they ended."""
    begun: dict[tuple[str, str], float] = {}
    found = []
    for entry in read(campaign / "journal.jsonl"):
        event = ev.from_entry(entry.kind, entry.data)
        if isinstance(event, ev.TaskStarted) and event.attempt == 1:
            begun[event.key, event.task] = entry.t
        elif isinstance(event, ev.TaskEnded) and event.attempt == 1 and event.outcome is ev.AttemptOutcome.OK:
            result, start = event.result or {}, begun.get((event.key, event.task))
            if start is not None and "graphs_per_second" in result and "parameters" in result:
                found.append(Trial(event.task, entry.t - start, float(result["seconds"])))
    return found


def of_campaign(campaign: Path) -> None:
    """Print the overhead of a campaign's trainings."""
    by_rung = defaultdict(list)
    found = trials(campaign)
    for trial in found:
        by_rung[f"rung {trial.task.rpartition('-r')[2]}" if "-r" in trial.task else "members"].append(trial)
    titles = ("trainings", "", "wall, s", "training and validation, s", "the rest, s a task", "share of rest")
    print(f"\nCampaign {campaign.name}:\n\n| {' | '.join(titles)} |")
    print("|---|---|---|---|---|---|")
    for title, some in [*sorted(by_rung.items()), ("all", found)]:
        wall, useful = sum(t.wall for t in some), sum(t.useful for t in some)
        rest = median(t.wall - t.useful for t in some) if some else 0.0
        print(
            f"| {title} | {len(some)} | {wall:.0f} | {useful:.0f} | {rest:.1f} | {1 - useful / max(wall, 1e-9):.0%} |"
        )


def once(command: list[str]) -> tuple[float, float, float, str]:
    """Return processor seconds, wall seconds, largest memory (MB) of a process, and what it said."""
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        said = "" if process.stderr is None else process.stderr.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command[0]} ended with {process.returncode}: {said.strip()[-300:]}")
    return used.ru_utime + used.ru_stime, time.perf_counter() - began, used.ru_maxrss / 1024, said


def command_line() -> None:
    """Print how long commands take from the shell to their end."""
    print("\n| command | processor s | wall s |\n|---|---|---|")
    program = str(Path(sys.executable).parent / "gfm-pipeline")
    for words in COMMANDS:
        turns = [once([program, *words]) for _ in range(TURNS)]
        cpu, wall = median(turn[0] for turn in turns), median(turn[1] for turn in turns)
        print(f"| gfm-pipeline {' '.join(words)} | {cpu:.2f} | {wall:.2f} |", flush=True)


def report(candidates: int) -> None:
    """Print what a report of so many candidates takes, imports included."""
    cpu, wall, memory, page = once([sys.executable, "-c", _RENDER, str(REPORTS), str(candidates)])
    print("\n| report of | processor s | wall s | memory, MB | page, MB |\n|---|---|---|---|---|")
    print(f"| {candidates:,} candidates | {cpu:.1f} | {wall:.1f} | {memory:.0f} | {page} |")


def run_small(folder: Path) -> Path:
    """Run a small campaign to its members, and return its folder."""
    workflow, campaign = folder / "workflow.yaml", folder / "small"
    workflow.write_text(json.dumps(SMALL), encoding="utf-8")  # JSON is YAML
    program = str(Path(sys.executable).parent / "gfm-pipeline")
    once([program, "run", str(workflow), "--campaign", str(campaign), "--until", "converge", "--quiet"])
    return campaign


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("campaigns", type=Path, nargs="*", metavar="CAMPAIGN")
    parser.add_argument("--run", action="store_true", help="run a small campaign, and measure it")
    parser.add_argument("--candidates", type=int, default=10_000)
    given = parser.parse_args()
    try:
        for campaign in given.campaigns:
            of_campaign(campaign)
        if given.run:
            with tempfile.TemporaryDirectory() as folder:
                of_campaign(run_small(Path(folder)))
    except (GFMError, OSError) as error:
        raise SystemExit(str(error)) from None
    if not given.campaigns and not given.run:
        command_line()
        report(given.candidates)


if __name__ == "__main__":
    main()
